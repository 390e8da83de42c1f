"""The workers' process group: torch's of Ray Train, whose workers also notice that they must end.

A module of its own, because it loads torch where only the driver's `fit` needs it.
"""

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from sonoray_jobs.training.saving.notice import listen


class NoticingTorchConfig(TorchConfig):
    """Torch's process group, whose workers notice that they are told to end."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train starts the workers with."""
        return _NoticingBackend


class _NoticingBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401 - Ray's
        super().on_start(worker_group, backend_config)
        worker_group.execute(listen)
