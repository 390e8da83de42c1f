"""The exported folder, and the assistant that runs it."""
