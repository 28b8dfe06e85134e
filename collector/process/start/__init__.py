"""Starts a process: by forkserver, spawn or fork, with what it takes over from the parent."""
