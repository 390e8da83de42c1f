"""Opinion: whether the answers of a dataset are right, asked of a model that was trained.

- `labels`, `claims`: the answers that are doubted: as they are, with planted errors, or what texts
  claim.
- `prompts`, `true_or_false`: true or false, with exemplars or without; the Ray Data actor.
- `library`, `doubts`: exemplars by features; what is asked of whom, within a cap.
- `asked_model`: the model, asked within the cap.
- `keep_or_change`: which way of asking is believed, and what becomes of each answer.
- `opinions`: all of it put together.
- `opinion_report`, `opinion_tables`: errors found, rights broken, probes of the mended answers.

`sonoray_jobs.evaluation.opinion.second_opinion` is the job.
"""
