"""What is said between the processes: frames, messages, the job's life cycle. Pure: no os, no files, no processes."""
