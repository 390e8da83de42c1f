"""Memory of one vision and one engine replica, beside an older build with the same model.

`python bench/serving/memory.py --base CHECKOUT`
`python bench/serving/memory.py --base CHECKOUT --decoder smollm2`

Each build serves a model of the same shape with random weights, in its own environment and with its
defaults, and answers 24 requests about studies of 1 to 4 images, 4 at once. Then the resident size
of the replicas' processes is read, and the proportional one, in which pages that processes share
are counted once. `CHECKOUT` holds the older build, with its `.venv`.
"""

import argparse
import asyncio
import importlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 300.0
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_layers": 30, "num_heads": 9}


def main() -> None:
    """Print one table of both builds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--decoder", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.decoder)
        return
    from sonoray.metrics.tables import Table

    base = weigh(str(args.base / ".venv" / "bin" / "python"), args)
    ours = weigh(sys.executable, args)
    rows = []
    for number, kind in enumerate(("resident", "proportional")):
        for name in ("vision", "engine", "both"):
            before, now = base[name][number], ours[name][number]
            rows.append(
                (
                    f"{name}, {kind}",
                    *(f"{each:.0f}" for each in (before, now)),
                    f"{now / before:.3f}",
                )
            )
    header = (f"MB, {args.decoder}", "older build", "this one", "ratio")
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))


def weigh(python: str, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Serve with one build, ask it, and read its replicas' sizes: resident and proportional MB."""
    import psutil
    from load import crowd, draw

    from sonoray_jobs.service.listening import free_port

    port = free_port()
    me = str(Path(__file__).resolve())
    command = [python, me, "--base", ".", "--serve", str(port), "--decoder", args.decoder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        wait(f"http://127.0.0.1:{port}/healthz", process)
        bodies = draw(24, (8, 24), seed=3)
        served = asyncio.run(crowd(f"http://127.0.0.1:{port}", bodies, streams=4))
        assert served.ended == {"200": 24}, served.ended
        found: dict[str, tuple[float, float]] = {}
        for child in psutil.Process(process.pid).children(recursive=True):
            words = " ".join(child.cmdline())
            for name in ("vision", "engine"):
                if f"ServeReplica:sonoray:{name}" in words:
                    full = child.memory_full_info()
                    found[name] = (full.rss / 1e6, full.pss / 1e6)
    finally:
        process.stdin.close()
        process.wait(60)
    both = [vision + engine for vision, engine in zip(*found.values(), strict=True)]
    return {**found, "both": (both[0], both[1])}


def wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the service answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            direct.open(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nothing answers at {url}") from None
            time.sleep(0.2)


def serve(port: int, decoder: str) -> None:
    """Run the service of the interpreter's own build until standard input is closed."""
    from llava_ultra.config import LanguageConfig
    from llava_ultra.testing import tiny_artifact
    from sonoray.workspace import Workspace

    config = _either("sonoray_jobs.road.config", "sonoray_jobs.road").load_road("tiny").model
    if decoder == "smollm2":
        values = {**config.language.model_dump(), **SMOLLM2}
        language = LanguageConfig.model_validate(values)
        config = config.model_copy(update={"language": language})
    serving = _either("sonoray_jobs.service.serve", "sonoray_jobs.serve").serving
    with tempfile.TemporaryDirectory() as folder:
        tiny_artifact(Path(folder) / "model", config=config)
        workspace = Workspace.open(Path(folder) / "workspace")
        model = str(Path(folder) / "model")
        with serving(workspace=workspace, model=model, port=port, insecure_local=True):
            sys.stdin.read()


def _either(*names: str) -> Any:  # noqa: ANN401 - a module
    """The first module of these that the build has."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"this build has none of {names}")


if __name__ == "__main__":
    main()
