"""The page at `/`: what a person tries the service with."""
