"""How a step is computed in parts that need not fit at once."""
