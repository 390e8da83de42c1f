"""From tower features to what the language model reads: fusion and the choice of images."""
