"""Robustness: what a trained model still answers when images and questions are not as they were.

1. `conditions`: images under each perturbation at each strength, questions under each of `wording`.
2. `actor` answers under every condition, once with the features as they are and once calibrated.
3. `degradation` judges, `curves` draws.

`sonoray_jobs.evaluation.robustness.assess` is the job that puts them together.
"""
