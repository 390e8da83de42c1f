"""DeepSpeed's CPU communication op, compiled once per machine before workers need it."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from sonoray.errors import JobFailedError

PREBUILT_VARIABLE = "SONORAY_TORCH_EXTENSIONS"
"""Names a folder of compiled extensions, which an image may hold; it may be read-only."""


def build_or_copy() -> str:
    """Make sure that this machine has the op, and return what went wrong, empty where nothing did.

    Where an image holds it compiled, it is copied: torch locks the folder that it loads from.
    """
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or "~/.cache/torch_extensions")
    versions = "-".join(version(package) for package in ("deepspeed", "torch"))
    mark = cache.expanduser() / f"sonoray-{versions}-{sys.implementation.cache_tag}"
    if mark.exists():
        return ""
    prebuilt = os.environ.get(PREBUILT_VARIABLE)
    if prebuilt and (Path(prebuilt) / mark.name).exists():
        shutil.copytree(prebuilt, mark.parent, dirs_exist_ok=True)
        return ""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(  # noqa: S603 - our own interpreter and constant code
        [sys.executable, "-c", _BUILD],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()  # nothing where a signal ended it
        return said[-1] if said else f"exit code {done.returncode}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return ""


def prebuild_communication() -> None:
    """Compile DeepSpeed's CPU communication op once, so that ranks do not race to build it.

    It takes some 20 s on the first run of a machine and is cached by torch afterwards. It runs in a
    process of its own, since DeepSpeed fixes its accelerator at first import; even where there is
    nothing to compile that costs 5 s, so a mark beside torch's cache says that it was done.
    """
    import ray

    problem = ray.get(ray.remote(num_cpus=0)(build_or_copy).remote())
    if problem:
        raise JobFailedError(
            f"DeepSpeed cannot build its CPU communication op ({problem}); run: sonoray doctor"
        )


_BUILD = """
import torch
if not torch.cuda.is_available():
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    ShareMemCommBuilder().load(verbose=False)
"""


if __name__ == "__main__":  # in an image's build
    if failed := build_or_copy():
        raise SystemExit(failed)
