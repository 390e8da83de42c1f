"""What a road asks of a cluster's devices, looked at before anything starts there.

A precision that a node lacks would be refused by its worker, after minutes of waiting, or again and
again. So every node that may get the work is asked first: of CPUs by a small task, since only torch
knows them; of GPUs by the type that Ray tells, which costs nothing. A GPU of a type that Ray does
not know, and a node that joins later, are left to the worker (`llava_ultra.parameters.products`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sonoray.errors import ConfigError

_LACKING_GPUS = {"V100", "P100", "T4", "P4", "K80"}
"""Ray's names of the GPUs from before Ampere, which have no units for bfloat16."""
_TYPE = "accelerator_type:"
"""Begin of the resource by which Ray tells a node's GPU."""


def require_precisions(asked: Mapping[str, str], *, uses_gpus: bool) -> None:
    """Refuse a precision that a node of the initialised Ray lacks.

    Args:
        asked: `float32` or `bfloat16`, by setting.
        uses_gpus: whether the work runs on GPUs.

    Raises:
        ConfigError: a node that may get the work cannot compute so.
    """
    lowered = {setting: precision for setting, precision in asked.items() if precision != "float32"}
    if not lowered:
        return
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    lacking = _lacking_gpus(nodes) if uses_gpus else _lacking_cpus(nodes)
    if lacking:
        setting, precision = next(iter(lowered.items()))
        device = "GPU of Ampere or newer" if uses_gpus else "CPU with AVX-512"
        raise ConfigError(
            f"{setting} {precision!r} needs a {device}, which these nodes lack: "
            f"{', '.join(lacking)}; set {setting} to float32, or leave them out of the cluster"
        )


def _lacking_gpus(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Addresses of the nodes whose GPUs are known to lack bfloat16, with their type."""
    return [
        f"{node['NodeManagerAddress']} ({resource.removeprefix(_TYPE)})"
        for node in nodes
        for resource in node["Resources"]
        if node["Resources"].get("GPU") and resource.removeprefix(_TYPE) in _LACKING_GPUS
    ]


def _lacking_cpus(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Addresses of the nodes with CPUs that compute bfloat16 slower than float32."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    working = [node for node in nodes if node["Resources"].get("CPU")]
    look = ray.remote(num_cpus=0)(_cpu_has_bfloat16)
    found = ray.get(
        [
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for node in working
        ]
    )
    return [node["NodeManagerAddress"] for node, has in zip(working, found, strict=True) if not has]


def _cpu_has_bfloat16() -> bool:
    """Of the node on which it runs."""
    from llava_ultra.parameters.products import cpu_has_bfloat16

    return cpu_has_bfloat16()
