"""What the model is trained for: named losses behind one interface, each in a module of its own.

A new loss is one file here, its class in `llava_ultra.config.ObjectiveConfig`, and an entry in
`ModelConfig.objectives`, without which it is not trained.
"""
