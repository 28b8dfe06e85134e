"""Who runs: contexts, scheduler, chunk queue, worker, sink and the pool that watches them."""
