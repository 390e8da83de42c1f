"""The study contract and what follows from it: rows, splits, near duplicates, order, prompts."""
