"""Bytes between ranks: who talks to whom, and every byte counted."""
