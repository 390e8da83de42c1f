"""Step 6 of the road: answers, metrics, comparisons, ablations."""
