"""Pickling: how calls, values and the script itself travel to a worker and back."""
