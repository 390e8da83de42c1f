"""What is done on a running cluster: apply, status, jobs and their logs, delete, the way back."""
