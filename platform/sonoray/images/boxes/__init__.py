"""Pictures and loops in files that are no videos: volumes, arrays, animations."""
