"""Where an error comes from: the towers alone, the language model alone, the whole model.

- `levels`: which topics are modality, anatomy, lesion and diagnosis.
- `told_findings`: the findings in words, and what the language model says to them.
- `error_sources`: the job for one of the modes, or all of them.
- `sources_report`: all of them in one table.
"""
