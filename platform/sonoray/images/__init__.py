"""Pixels from untrusted bytes: decoded safely, frames of videos chosen, in capped processes."""
