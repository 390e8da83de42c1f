"""Masks as measurements: how well one covers another, how large it is."""
