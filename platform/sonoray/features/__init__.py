"""The feature store: what the frozen towers computed, by image id and tower fingerprint."""
