"""What nothing that collects can beat, on this machine."""
