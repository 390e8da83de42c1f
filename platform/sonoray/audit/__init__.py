"""What a careful researcher asks of a dataset before training on it.

- `terms`: texts that contradict the labels beside them
- `lookalikes`: perceptual hashes and near-duplicate groups of every image
- `census`: counts of studies, labels, topics, sizes, and texts that repeat
- `samples`: images for the contact sheet
- `links`: patients and images in two splits, duplicates, labels in conflict
- `findings`: what of all that a reader must know first
- `json_values`, `overview_tables`, `charts`, `pictures`, `page`: how it is shown

Studies stream through once and images row group by row group; what is held are numbers and hashes.
"""
