"""The command line and one Ray job per module; composes platform, model and serve."""
