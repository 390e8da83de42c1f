"""Where the outputs of the road lie: what each is keyed by, and how jobs find them."""
