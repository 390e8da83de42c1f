"""Jobs about the frozen parts: bootstrap trains or adopts them, embed runs them over the images."""
