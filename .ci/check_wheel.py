"""Check an installed SonoRay wheel: run by the Python of a clean environment, outside the tree.

Every module must import, from site-packages and with nothing but the declared dependencies, and the
packaged configs and templates must lie beside them. A wheel that forgets a folder, or a package
that the `dev` group alone brings, passes every test that runs from the source tree.
"""

import importlib
import importlib.metadata
import pkgutil
import sysconfig
from pathlib import Path

PACKAGES = ("sonoray", "llava_ultra", "sonoray_jobs", "sonoray_serve")

site_packages = Path(sysconfig.get_path("purelib")).resolve()
names = []
for package in PACKAGES:
    module = importlib.import_module(package)
    origin = Path(str(module.__file__)).resolve()
    assert origin.is_relative_to(site_packages), f"{package} is {origin}, not in {site_packages}"
    names += [found.name for found in pkgutil.walk_packages(module.__path__, f"{package}.")]
for name in names:
    importlib.import_module(name)
assert {"sonoray_jobs.cli.main", "sonoray_serve.app", "llava_ultra.model"} <= set(names), names

configs = sorted(
    path.name for path in (site_packages / "sonoray_jobs" / "road" / "presets").glob("*.toml")
)
assert {"tiny.toml", "busbra.toml"} <= set(configs), f"the wheel carries the configs {configs} only"

for template in (
    site_packages / "sonoray" / "audit" / "page.html.jinja",
    site_packages / "sonoray_jobs" / "evaluation" / "external" / "validation_page.html.jinja",
):
    assert template.is_file(), f"the wheel lacks {template.name}, from which a page is made"

files = importlib.metadata.files("sonoray") or []
roots = {file.parts[0] for file in files if file.suffix == ".py"}
assert roots == set(PACKAGES), f"the wheel holds the packages {sorted(roots)}"
print(f"wheel: {len(names)} modules import, configs {', '.join(configs)}")
