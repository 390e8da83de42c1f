"""What an engine replica does and has done, for the dashboard and for Prometheus.

Ray's own metrics of Serve know requests; these know answers, tokens and what was not read again.
Tokens a second are the rate of `sonoray_engine_answer_tokens`, as Prometheus computes it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

MODEL_METRIC = "sonoray_served_model"
"""1 for each replica that has loaded a model, by the model's digest."""


@dataclass(kw_only=True, slots=True)
class Counts:
    """What one engine replica does and has done."""

    num_waiting: int = 0
    """Requests that have not begun."""
    num_active: int = 0
    """Requests that are read or decoded."""
    num_ended: int = 0
    """Requests that have ended, in any way."""
    num_cancelled: int = 0
    """Those of them whose client had gone before the end."""
    num_answer_tokens: int = 0
    """Tokens that were decoded."""
    num_prompt_tokens: int = 0
    """Prompt tokens that were read."""
    num_shared_tokens: int = 0
    """Prompt tokens that an earlier prompt had been read for."""
    work: float = 0.0
    """What is in hand, as a share of what is decoded at once; above 1 some of it waits."""


_GAUGES = {
    "num_waiting": "Requests that wait in the engine.",
    "num_active": "Requests that the engine reads or decodes.",
    "work": "What is in hand, as a share of what is decoded at once.",
}
_COUNTERS = {
    "num_ended": "Requests that have ended, in any way.",
    "num_cancelled": "Requests whose client had gone before the end.",
    "num_answer_tokens": "Tokens that were decoded.",
    "num_prompt_tokens": "Prompt tokens that were read.",
    "num_shared_tokens": "Prompt tokens that needed no reading.",
}


def metric_name(field: str) -> str:
    """The metric of a field of `Counts`: `num_waiting` is `sonoray_engine_waiting`."""
    return f"sonoray_engine_{field.removeprefix('num_')}"


class Meters:
    """`Counts` as Ray's metrics, one series a replica."""

    def __init__(self) -> None:
        from ray.serve.metrics import Counter, Gauge

        self._gauges = {
            field: Gauge(metric_name(field), description=text) for field, text in _GAUGES.items()
        }
        self._counters = {
            field: Counter(metric_name(field), description=text)
            for field, text in _COUNTERS.items()
        }
        self._told = Counts()

    def show(self, counts: Counts) -> None:
        """Tell where the counts stand."""
        now = asdict(counts)
        for field, gauge in self._gauges.items():
            gauge.set(now[field])
        for field, counter in self._counters.items():
            more = now[field] - getattr(self._told, field)
            if more > 0:
                counter.inc(more)
        self._told = Counts(**now)


def show_model(digest: str) -> Callable[[], None]:
    """Tell which model a replica serves, so that replicas with different ones are noticed.

    Args:
        digest: sha256 (hex) of the model's manifest.

    Returns:
        What tells it again. Ray forgets a gauge that is not set for some report intervals, so that
        it has to be called with every health check.
    """
    from ray.serve.metrics import Gauge

    gauge = Gauge(MODEL_METRIC, description="1 by digest of the model.", tag_keys=("digest",))

    def tell() -> None:
        gauge.set(1, tags={"digest": digest[:16]})

    tell()
    return tell
