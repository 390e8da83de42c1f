"""Step 8 of the road: start the service, ask it."""
