"""Batches that outlive their process: what is run, over which inputs, and what has come of each."""
