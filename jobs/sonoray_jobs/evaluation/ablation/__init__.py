"""Ablations: variants of a road, trained with several seeds each and compared on the same studies.

- `variants`: what each ablation compares, as configuration values.
- `children`: one training and its evaluations per variant and seed; what of it is done.
- `parallel`: the children as Ray tasks, as many at once as the cluster holds.
- `scores`: means over seeds, with intervals over patients and seeds, against a reference.
- `report`: Markdown, JSON and text.
- `figure`: the same as bars.
- `ways`: recognition of classes, in words and from features, judged by itself.

`sonoray_jobs.evaluation.ablation.ablate` is the command that puts them together.
"""
