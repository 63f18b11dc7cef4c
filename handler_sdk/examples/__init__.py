"""Handlers to try and to begin from. Each file says how to run it."""
