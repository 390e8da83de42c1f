"""Probing: what the frozen towers know of the closed questions, without a language model.

- `pooling`: features of each image, pooled, on Ray Data.
- `answer_folds`: folds over patients that leave every answer to be learned from.
- `linear`: a logistic regression for each question, judged by study.
- `suspects`: labels that the features of other patients contradict.

`sonoray_jobs.evaluation.probing.probe` is the job that puts them together.
"""
