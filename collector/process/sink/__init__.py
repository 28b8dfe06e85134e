"""The sink, or collector process: reads all queues, keeps the outputs, seals them, reports."""
