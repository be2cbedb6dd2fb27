"""Checkpoints: what is written, where a run goes on, and when all ranks stop."""
