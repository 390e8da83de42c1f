"""Encoding models: what a decoder's states, layer by layer, say of numbers that a user brings.

- `targets`: a table of numbers by study or image, or what a dataset's labels say.
- `ridge`: scores of cross-validated ridge regressions, and noise ceilings.
- `state_reading`: states of every layer under every instruction, as a Ray Data actor.
- `encoding_report`: instructions beside none, layer by layer, in numbers.
- `probe_states`: the job that puts them together.
"""
