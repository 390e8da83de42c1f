"""A private Ray without the processes that nothing here uses.

Of 8.3 s of CPU time that a start takes, the dashboard takes 1.7, most of it imports. `ray.init`
starts it even where it is told to include none, for usage statistics, and waits until it has
written its address. The autoscaler's monitor, which has nothing to scale on one machine, takes 0.7,
and as much the log monitor, which reads workers' logs for a driver that may not want them. Ray 2.60
has no option against any of them; a test fails once it starts them in another way.
"""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def lean_node(*, shows_logs: bool) -> Iterator[None]:
    """Let `ray.init` start no dashboard and no monitor for the block.

    Args:
        shows_logs: whether the driver prints what workers write; it stays in their files anyway.
    """
    from ray._private.node import Node

    left_out = {"start_api_server": _no_dashboard, "start_monitor": _nothing}
    if not shows_logs:
        left_out["start_log_monitor"] = _nothing
    before = {name: getattr(Node, name) for name in left_out}
    for name, instead in left_out.items():
        setattr(Node, name, instead)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _no_dashboard(node: Any, **_: Any) -> None:  # noqa: ANN401 - Ray's node
    node._webui_url = ""


def _nothing(_node: Any) -> None:  # noqa: ANN401 - Ray's node
    pass
