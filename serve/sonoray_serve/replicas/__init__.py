"""The deployments that hold weights, and how they load them."""
