"""How well pages are read, and questions about them answered."""
