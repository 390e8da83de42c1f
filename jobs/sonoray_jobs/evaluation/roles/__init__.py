"""Roles: one served model in several parts, which consult on a question.

- `wordings`: the roles, and what each is told.
- `budget`: the caps on calls and tokens.
- `calls`: one question's calls of the service, each within the budget and written down.
- `memory`: training studies by their vectors, and those that look most alike.
- `consultation`: the loop.
- `alone`: the same model asked once, or as often as the roles called.
- `consult_report`: all ways side by side.
- `all_ways`: the questions of a split in all ways, written down.
- `consult`: the job.
"""
