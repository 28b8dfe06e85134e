"""The face of the pool: `Collector`, a `concurrent.futures.Executor`, and `Job`, its `Future`."""
