"""SonoRay's platform: data contracts, ingest, stores, cluster runtime, tracking, metrics.

Depends on Ray and MLflow, never on torch and never on the model (checked by import-linter).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sonoray")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    __version__ = "0+source"
