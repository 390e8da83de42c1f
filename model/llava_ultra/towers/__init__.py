"""The frozen encoders, how pixels reach them, how published weights become towers."""
