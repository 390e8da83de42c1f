"""What the decoder reads in training: texts around images in one row, and the answers' logits."""
