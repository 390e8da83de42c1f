"""What the model is trained for: named losses behind one interface, each in a module of its own.

A new loss is one file here and one line in `llava_ultra.config.ObjectiveConfig`.
"""
