"""The names of the adapters that share a task of extraction. Torch stays out."""

ROLES = ("full", "identify", "classify")
"""Of the whole task, of finding what is named, of saying which field it is."""
