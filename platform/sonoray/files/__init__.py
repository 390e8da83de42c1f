"""Reading what lies on a disk: folders with all that hides in them, texts in Chinese encodings."""
