"""The embedded default model: how it was made, and its weights."""
