"""The machine and the cluster: checks, submission, failures that cross processes."""
