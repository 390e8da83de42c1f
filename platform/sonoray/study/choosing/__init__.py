"""Choosing among a dataset's studies: by labels that they have, or must not have."""
