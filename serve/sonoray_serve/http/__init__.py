"""The HTTP side: shapes, keys, limits, errors."""
