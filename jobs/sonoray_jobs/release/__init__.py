"""Step 7 of the road: what is exported, and what a model costs."""
