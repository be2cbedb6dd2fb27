"""A run as its logs show it while it goes on: for a terminal, and for programs that draw curves."""
