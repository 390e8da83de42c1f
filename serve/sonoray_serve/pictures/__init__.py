"""From a request's encoded images to the pictures of a study."""
