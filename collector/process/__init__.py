"""Who runs: contexts, the scheduler, the chunk queue, worker, sink and the pool that watches them."""
