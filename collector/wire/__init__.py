"""What is said between the processes: frames and messages. Pure: no os, no files, no processes."""
