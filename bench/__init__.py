"""Measure collector beside its rivals and beside what the machine can do; see README.md here."""
