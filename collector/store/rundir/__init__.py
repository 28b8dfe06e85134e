"""The run directory: made, held by locks, counted, swept and removed, in a root of ours."""
