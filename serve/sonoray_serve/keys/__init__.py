"""Who is admitted to what, and the log of who came."""
