"""Small integers to few bytes."""
