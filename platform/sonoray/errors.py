"""The errors that a user may meet: one tree, one line each, picklable.

Every message says three things: what failed, the offending value, what to change. The command line
prints the message without a traceback and exits with `exit_code`; anything outside this tree is
our bug and keeps its traceback. Subclasses take the message alone, so they survive pickling
between Ray processes (an exception with extra constructor arguments does not).
"""


class SonoError(Exception):
    """Base of all expected failures."""

    exit_code = 2
    """2 for what the user can mend in the command, the config or the input."""


class ConfigError(SonoError):
    """A configuration that cannot be used: unknown key, wrong type, broken cross-field rule."""


class DataError(SonoError):
    """Input data that is missing, unreadable or breaks a contract."""


class CheckpointError(SonoError):
    """Weights, checkpoints or exported models that are missing, damaged or do not match."""


class ClusterError(SonoError):
    """A Ray cluster that cannot be reached or is too small for the job."""


class TrackingError(SonoError):
    """An MLflow server or store that cannot be used."""


class TrackingAwayError(TrackingError):
    """An MLflow server that does not answer: what it should hold can wait for it."""


class ServingError(SonoError):
    """A service that cannot start or does not answer."""


class JobFailedError(SonoError):
    """A job that ran and failed: not the user's command but what happened while it ran."""

    exit_code = 1
