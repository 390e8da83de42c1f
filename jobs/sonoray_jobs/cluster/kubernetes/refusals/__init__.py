"""What is refused before anything is applied, each in one line."""
