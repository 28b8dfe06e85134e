"""The progress of jobs: what a batch has done, on the terminal, in the log, to the user's code."""
