"""How many replicas the work in hand wants, for Ray Serve's autoscaler.

Requests cost unlike amounts: a study has one image or sixteen, an answer eight tokens or a
thousand, and a request may ask for several. So each replica tells the work that it has in hand as a
share of what it works on at once (`Engine.record_autoscaling_stats`), above 1 where some of it
waits, and as many replicas are wanted as would each be busy to `BUSY`. Ray's own default counts
requests against `max_ongoing`, which a service that refuses above it never exceeds: it would not
scale at all.

The controller gets this module by value: it imports nothing of ours.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

WORK = "work"
"""Name of what replicas tell."""

BUSY = 0.7
"""Share of what it works on at once that a replica should have in hand: room for what comes while
another one starts, which takes as long as loading the model."""


def replicas_for_work(context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
    """The replicas that are wanted; Ray Serve holds them to its bounds and delays.

    Args:
        context: what is known of the deployment, with `WORK` by replica.
    """
    told = (context.aggregated_metrics or {}).get(WORK, {})
    if not told:  # none has been up for long enough
        return float(context.target_num_replicas), {}
    return sum(told.values()) / BUSY, {}
