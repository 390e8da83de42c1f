"""What holds for the weights of every training: digests, precision, schedule."""
