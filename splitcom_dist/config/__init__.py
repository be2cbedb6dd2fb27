"""The configuration: one typed schema, what follows from it, files and overrides, and what no run could use."""
