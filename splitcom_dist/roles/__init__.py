"""The step of each role, readable top to bottom."""
