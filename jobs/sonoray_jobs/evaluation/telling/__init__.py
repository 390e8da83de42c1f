"""Patient columns in prompts.

- `told_words`, `told_columns`: columns in words, in layers, in front of a question.
- `teller`: what is told of which question.
- `tell_report`, `told_table`: told, plain, and told another patient's, beside each other.
- `tell_columns`: the job.
"""
