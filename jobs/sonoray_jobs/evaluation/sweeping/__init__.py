"""Sweeps: a search over settings of a road through Ray Tune.

- `space`: which settings, over which values.
- `search`: what was asked for; Ray Tune's searcher and scheduler for it.
- `trial`: one training with its value, as a Tune trial.
- `swept`: what became of the trials, as text, JSON and pictures.

`sonoray_jobs.evaluation.sweeping.sweep` is the command that puts them together.
"""
