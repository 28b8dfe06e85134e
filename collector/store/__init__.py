"""Where the bytes rest: outputs, their files, the run directories. One process, no IPC."""
