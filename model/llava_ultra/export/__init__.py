"""The exported folder, its weights, and the assistant that runs it."""
