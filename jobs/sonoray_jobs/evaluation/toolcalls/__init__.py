"""A served model that may call tools.

- `clinical_tools`: what may be called: a patient's risk, programs.
- `program_run`: one run of a program, within a time and a size.
- `tool_endpoint`: a running service, asked with tools.
- `tool_loop`: one question: calls, results, the answer; never past the cap.
- `assist_report`: the loop beside the same model alone, and the risk model alone.
- `assist`: the job.
"""
