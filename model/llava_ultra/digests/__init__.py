"""Digests of weights, checked wherever they are loaded."""
