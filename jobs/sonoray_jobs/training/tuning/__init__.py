"""Towers that learn through a trained model."""
