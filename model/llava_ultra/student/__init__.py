"""A small classifier over the towers' features that learns closed questions from the model.

- `student_config`: its settings.
- `network`: features of a study's images in, log-probabilities of each topic's options out.
- `student_card`: what it says of itself: whose it is, what it answers, how far it can be trusted.
- `learning`: what it is taught, the losses, and how long it learns.
"""
