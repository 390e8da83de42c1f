"""The configuration of a whole road, and the packaged ones in `presets`."""
