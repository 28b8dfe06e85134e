"""One output: growing, sealed, read, saved under its final name."""
