"""Run the jobs of a batch in worker processes and collect what they write while they run."""
