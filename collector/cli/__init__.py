"""The `collector` program: one module a command, and what they print with."""
