"""Steps 1 and 2 of the road: files of whatever source become studies, split by patient."""
