"""Towers out of a tuning."""
