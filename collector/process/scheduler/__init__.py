"""Decides, pure: which job runs where, what follows from a death, when to give up."""
