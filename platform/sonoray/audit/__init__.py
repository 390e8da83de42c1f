"""What a careful researcher asks of a dataset before training on it.

- `terms`: texts that contradict the labels beside them
- `looks`: perceptual hashes and near-duplicate groups of every image
- `census`: counts of studies, labels, topics, sizes, and texts that repeat
- `samples`: images for the contact sheet
- `links`: patients and images in two splits, duplicates, labels in conflict

Studies stream through once and images row group by row group; what is held are numbers and hashes.
"""
