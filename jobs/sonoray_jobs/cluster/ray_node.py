"""Ray's command line for a busy CPU: `python -m sonoray_jobs.cluster.ray_node start ...`.

Every call imports Ray Serve, for the commands `ray serve`: 1.5 of 2.8 s of CPU time. Ray leaves
those commands out where they cannot be imported, and so they cannot, unless they are asked for.

Two things of Ray 2.60 end a node that comes up slowly, and there is no option against either:

- Every head starts the server of Ray Client (port 10001), which nobody here uses. It gives up after
  30 s of waiting for the raylet, and then `ray start --block` takes the whole head down with it:
  four starts of six on a starved CPU. Ray leaves it out where its dependency, grpc, is missing, and
  so the command is told that it is.
- A raylet waits 15 s for the file in which its agent writes its port, even where the port was
  given, and then ends; agents take longer where many processes start at once on one CPU. Raylets
  have a flag for that port, which `ray start` does not set, and so it is added.

A test fails once Ray asks, or waits, differently.
"""

import re
import sys
from types import ModuleType
from typing import Any

_SERVE_COMMANDS = "ray.serve.scripts"
_LISTEN_PORT = re.compile(r"--listen-port=([1-9]\d*)")


def without_serve(arguments: list[str]) -> None:
    """Keep Ray's command line from importing Ray Serve; call it before Ray's command line is.

    Args:
        arguments: of the command.
    """
    if "serve" not in arguments and arguments not in ([], ["--help"]):
        sys.modules[_SERVE_COMMANDS] = None  # type: ignore[assignment]  # its import is an error


def without_client(scripts: ModuleType) -> None:
    """Make Ray's command line believe that Ray Client cannot be had.

    Args:
        scripts: `ray.scripts.scripts`.
    """
    reason = ImportError("Ray Client is off (sonoray_jobs.cluster.ray_node)")
    scripts.get_ray_client_dependency_error = lambda: reason  # type: ignore[attr-defined]


def with_agent_port(services: ModuleType) -> None:
    """Tell the raylet the port of its agent, where it was given.

    Args:
        services: `ray._private.services`.
    """
    start = services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Ray's
        if process_type == "raylet" and (found := _LISTEN_PORT.search(" ".join(command))):
            command = [*command, f"--dashboard_agent_listen_port={found[1]}"]
        return start(command, process_type, *args, **kwargs)

    services.start_ray_process = start_ray_process  # type: ignore[attr-defined]


def main() -> None:
    """Run Ray's command line."""
    without_serve(sys.argv[1:])
    from ray._private import services
    from ray.scripts import scripts

    without_client(scripts)
    with_agent_port(services)
    scripts.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
