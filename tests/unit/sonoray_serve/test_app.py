from sonoray_serve.app import _options
from sonoray_serve.settings import Replicas, ServeConfig


def test_replicas_come_and_go_after_the_delays_that_are_set():
    delays = {"upscale_delay_s": 2, "downscale_delay_s": 70}
    replicas = Replicas(num_cpus=1, max_ongoing=2, max_queued=4, max_replicas=3, **delays)
    for name in ("engine", "vision", "ingress"):
        scaling = _options(name, replicas, ServeConfig(), {})["autoscaling_config"]
        assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (2, 70)
        assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
