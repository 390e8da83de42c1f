"""Many answers decoded together: rows of any length that begin and end at any step."""
