"""Alert rules and panels on a real Prometheus that scrapes a real Ray with a Serve application."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import cache_folder, free_port, missing

from sonoray_jobs.cluster.kubernetes.manifests.monitoring import METRICS, PANELS, alert_rules
from sonoray_jobs.cluster.kubernetes.site import load_site

WITHOUT_A_GPU = {"ray_node_gpus_utilization", "ray_node_gpus_available"}
"""What a machine without GPUs does not export."""

APPLICATION = """
import sys, time
import ray
from ray import serve
from starlette.responses import PlainTextResponse

ray.init(_metrics_export_port=int(sys.argv[1]), num_cpus=2, include_dashboard=False,
         object_store_memory=100_000_000, _temp_dir=sys.argv[3])

@serve.deployment(ray_actor_options={"num_cpus": 0.1}, health_check_period_s=5)
class Answers:
    def __init__(self):
        from sonoray_serve.schedule.meters import Counts, Meters, show_model
        self.tell_model = show_model("ab" * 32)
        self.counts, self.meters = Counts(), Meters()

    async def check_health(self):
        self.tell_model()

    async def __call__(self, request):
        if request.url.path == "/fail":
            return PlainTextResponse("no", status_code=500)
        for name in ("num_ended", "num_cancelled", "num_answer_tokens", "num_shared_tokens"):
            setattr(self.counts, name, getattr(self.counts, name) + 1)
        self.meters.show(self.counts)
        return PlainTextResponse("yes")

serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(Answers.bind(), name="sonoray", route_prefix="/")
print("serving", flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := missing("prometheus", "promtool"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("prometheus")
    metrics, serve, port = free_port(), free_port(), free_port()
    (folder / "application.py").write_text(APPLICATION)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n- job_name: ray\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{metrics}']}}]\n"
    )
    ray_folder = Path("/tmp") / f"sq-{port}"  # sockets need a short path
    log = folder / "log"
    with log.open("wb") as out:
        application = subprocess.Popen(
            [sys.executable, "application.py", str(metrics), str(serve), str(ray_folder)],
            cwd=folder,
            stdout=out,
            stderr=out,
        )
        server = subprocess.Popen(
            [
                cache_folder() / "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 180
        while b"serving" not in log.read_bytes():
            assert application.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        for _ in range(30):  # rates need a rise between two scrapes
            for path in ("/", "/fail"):
                with contextlib.suppress(urllib.error.HTTPError):  # what /fail is for
                    urllib.request.urlopen(f"http://127.0.0.1:{serve}{path}", timeout=10).read()
            time.sleep(0.7)
        time.sleep(12)  # Ray hands its metrics on every few seconds
        yield f"http://127.0.0.1:{port}"
    finally:
        application.terminate()
        server.terminate()
        application.wait(timeout=30)
        server.wait(timeout=30)


def ask(server: str, query: str) -> list[Any]:
    words = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{server}/api/v1/query?{words}", timeout=30) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


def test_every_metric_is_there(prometheus: str) -> None:
    absent = {name for name in METRICS if not ask(prometheus, f"count({name})")}
    assert absent <= WITHOUT_A_GPU


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel[0])
def test_a_panel_shows_something(prometheus: str, panel: tuple[str, str, str]) -> None:
    _, _, query = panel
    if not any(name in query for name in WITHOUT_A_GPU):
        assert ask(prometheus, query), query


def test_failed_requests_fire_their_alert_and_nothing_else_does(prometheus: str) -> None:
    firing = {
        rule["alert"]
        for rule in alert_rules(load_site("gpu-prod")[0])
        if ask(prometheus, rule["expr"])
    }
    # the machine's own disk may be full
    assert firing - {"SonoRayDisk"} == {"SonoRayErrorBudget"}


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    if reason := missing("promtool"):
        pytest.skip(reason)
    path = tmp_path / "rules.yaml"
    rules = alert_rules(load_site("gpu-prod")[0])
    path.write_text(yaml.safe_dump({"groups": [{"name": "sonoray", "rules": rules}]}))
    done = subprocess.run(
        [cache_folder() / "promtool", "check", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
