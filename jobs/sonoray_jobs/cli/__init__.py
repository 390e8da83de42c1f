"""The `sonoray` command: what people type, and the only place that prints."""
