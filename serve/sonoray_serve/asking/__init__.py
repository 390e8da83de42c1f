"""Questions on their way to the engine: about which study, and which ones first."""
