"""Digests that decide whether a result is reused."""
