"""A causal language model in parts, and its adapters."""
