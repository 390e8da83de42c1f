"""Copies of the traffic for a candidate model, before anybody relies on it."""
