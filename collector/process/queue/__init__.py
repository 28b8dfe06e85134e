"""Carries: the chunk queue with its shared slots, message channels, readiness loops."""
