"""Typed configuration: frozen pydantic models, TOML files, dotted overrides, resolved JSON."""
