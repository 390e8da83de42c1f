"""What another scanner, another hand or another archive does to a picture.

A perturbation is an image in and the same kind of image out: a frozen configuration that says how
far it goes at most, and a function of an image, a strength in 0..1 and a random generator. The
towers' pretraining and the views of the feature store draw strengths; a judgement of robustness
gives them.
"""
