"""Pretraining of the small parts, and domain-adaptive pretraining of larger ones.

Where no weights can be downloaded, the `tiny` preset makes its own: a CLIP by contrast
(`pretrain.clip`), a SAM encoder from lesion masks (`pretrain.sam`), a Chinese language model from
the study texts (`pretrain.language`). Each is a plain function of its data, its configuration and a
seed, runs on one process and reports its progress through a callback.
"""
