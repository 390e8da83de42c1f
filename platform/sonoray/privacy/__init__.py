"""What keeps patients unknown: keyed identities, cleaned texts, dates and pictures."""
