"""Extraction: structured fields out of Chinese reports, plainly or by contrast.

`fields` says what a field is, `reading` asks a decoder, `extraction_report` judges, and `extract`
is the command.
"""
