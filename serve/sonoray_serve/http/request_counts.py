"""What an ingress replica has answered, as Prometheus reads it from `/metrics`.

The service's own paths are the only labels: a path that a client made up is `other`, and nothing of
a request becomes a label. Counts are of one ingress replica; those of the engine, and Ray's own,
are in Ray's endpoint on each node.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper ends of the ranges of time."""

OTHER = "other"

_SECONDS = "sonoray_request_seconds"


class IngressMeters:
    """Counts of one ingress replica; for its event loop."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Args: `paths` that are told apart."""
        self._paths = frozenset(paths)
        self._answered: Counter[tuple[str, int]] = Counter()
        self._took: Counter[tuple[str, float]] = Counter()
        self._took_s: Counter[str] = Counter()
        self._by: Counter[str] = Counter()

    def add(self, path: str, status: int, took_s: float) -> str:
        """Count an answer, at its end; gives the label that its path has."""
        label = path if path in self._paths else OTHER
        self._answered[label, status] += 1
        self._took_s[label] += took_s  # type: ignore[assignment]
        for bound in BOUNDS_S:
            self._took[label, bound] += took_s <= bound
        return label

    def add_answer(self, answered_by: str) -> None:
        """Count an answer to a question by who gave it, `model` or `student`."""
        self._by[answered_by] += 1

    def text(self, num_requests: int, shadow: Mapping[str, int] | None = None) -> str:
        """All counts in Prometheus' text format.

        Args:
            num_requests: that are in work.
            shadow: copies for a candidate by their outcome, where there is one.
        """
        lines = [
            "# HELP sonoray_requests_in_work Requests that are being answered.",
            "# TYPE sonoray_requests_in_work gauge",
            f"sonoray_requests_in_work {num_requests}",
            "# HELP sonoray_requests_total Requests that were answered.",
            "# TYPE sonoray_requests_total counter",
        ]
        for (path, status), count in sorted(self._answered.items()):
            lines.append(f'sonoray_requests_total{{path="{path}",status="{status}"}} {count}')
        lines += [
            f"# HELP {_SECONDS} Time from a request's first byte to its answer's last.",
            f"# TYPE {_SECONDS} histogram",
        ]
        counts = Counter[str]()
        for (path, _), count in self._answered.items():
            counts[path] += count
        for path, count in sorted(counts.items()):
            label = f'path="{path}"'
            lines += [
                f'{_SECONDS}_bucket{{{label},le="{bound:g}"}} {self._took[path, bound]}'
                for bound in BOUNDS_S
            ]
            lines += [
                f'{_SECONDS}_bucket{{{label},le="+Inf"}} {count}',
                f"{_SECONDS}_sum{{{label}}} {self._took_s[path]:.6f}",
                f"{_SECONDS}_count{{{label}}} {count}",
            ]
        lines += [
            "# HELP sonoray_answers_total Answers to questions, by who gave them.",
            "# TYPE sonoray_answers_total counter",
            *(f'sonoray_answers_total{{by="{by}"}} {self._by[by]}' for by in ("model", "student")),
        ]
        if shadow is not None:
            lines += [
                "# HELP sonoray_shadow_total Copies for the candidate, by outcome.",
                "# TYPE sonoray_shadow_total counter",
                *(
                    f'sonoray_shadow_total{{outcome="{outcome}"}} {count}'
                    for outcome, count in shadow.items()
                ),
            ]
        return "\n".join(lines) + "\n"
