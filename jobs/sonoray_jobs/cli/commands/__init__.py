"""The subcommands, one module a room of jobs: options, examples, and the call of the job."""
