"""Who is decoded when, on one thread, and what is kept for the next question."""
