"""Check an installed SonoRay wheel: run by the Python of a clean environment, outside the tree.

The four packages must import from site-packages, with their packaged configs beside them: a wheel
that forgets a folder still passes every test that runs from the source tree.
"""

import importlib
import importlib.metadata
import sysconfig
from pathlib import Path

MODULES = ("sonoray", "llava_ultra", "sonoray_jobs.cli", "sonoray_serve.app")

site_packages = Path(sysconfig.get_path("purelib")).resolve()
for name in MODULES:
    origin = Path(str(importlib.import_module(name).__file__)).resolve()
    assert origin.is_relative_to(site_packages), f"{name} comes from {origin}, not {site_packages}"

configs = sorted(path.name for path in (site_packages / "sonoray_jobs" / "configs").glob("*.toml"))
assert "tiny.toml" in configs, f"the wheel carries no configs/tiny.toml, only {configs}"

files = importlib.metadata.files("sonoray") or []
roots = {file.parts[0] for file in files if file.suffix == ".py"}
expected = {name.partition(".")[0] for name in MODULES}
assert roots == expected, f"the wheel holds the packages {sorted(roots)}, not {sorted(expected)}"
print("wheel:", sorted(roots), "with the configs", configs)
