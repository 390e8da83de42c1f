"""Recognition from features: what a decoder knows of a picture, held against texts of classes.

LLaVA-RadZ (arXiv 2503.07487) asks whether a multimodal decoder can tell diseases that nobody
labelled, and reads its states in place of its words. DFAT aligns pictures and reports, DKAM both
with descriptions of classes; docs/methods.md says what of it is known and what is our choice.
"""
