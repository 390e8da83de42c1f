"""Who answers a request: the model, or its student."""
