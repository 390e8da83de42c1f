"""`ray start --head` without the server of Ray Client: `python -m sonoray_jobs.cluster.ray_head`.

Ray 2.60 starts the server of Ray Client (port 10001) with every head and has no option against it.
Nobody here uses it. On a busy machine it gives up after 30 s of waiting for the raylet, and then
`ray start --block` takes the whole head down with it: four starts of six on a starved CPU. Ray
leaves it out where its dependency, grpc, is missing, and so the command is told that it is. A test
fails once Ray asks differently.
"""

from types import ModuleType


def without_client(scripts: ModuleType) -> None:
    """Make Ray's command line believe that Ray Client cannot be had.

    Args:
        scripts: `ray.scripts.scripts`.
    """
    reason = ImportError("Ray Client is off (sonoray_jobs.cluster.ray_head)")
    scripts.get_ray_client_dependency_error = lambda: reason  # type: ignore[attr-defined]


def main() -> None:
    """Run Ray's command line."""
    from ray.scripts import scripts

    without_client(scripts)
    scripts.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
