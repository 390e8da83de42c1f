"""Step 4 of the road: Ray Train workers with DeepSpeed, their data, their checkpoints."""
