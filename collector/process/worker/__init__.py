"""The worker: runs one job at a time and writes its chunks into its own queue."""
