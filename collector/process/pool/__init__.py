"""The parent: supervises every process of a Collector and settles its jobs."""
