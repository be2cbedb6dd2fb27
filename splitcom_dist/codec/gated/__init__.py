"""Codecs by sample: sent whole or not at all."""
