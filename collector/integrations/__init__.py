"""Finished uses of collector for common batches; nothing inside collector imports them."""
