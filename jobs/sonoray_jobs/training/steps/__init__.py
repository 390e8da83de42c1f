"""The steps of a training, and what is done between them."""
