"""Ray asks, and starts a raylet, in the ways that `ray_node` changes."""

from sonoray_jobs.cluster.ray_node import with_agent_port, without_client


def test_ray_asks_what_is_answered_and_has_no_option_of_its_own(monkeypatch):
    from ray.scripts import scripts

    asked = scripts.get_ray_client_dependency_error
    monkeypatch.setattr(scripts, "get_ray_client_dependency_error", asked)
    assert asked() is None  # grpc is there, so that Ray would start the server
    without_client(scripts)
    assert isinstance(scripts.get_ray_client_dependency_error(), ImportError)
    options = {name for option in scripts.start.params for name in option.opts}
    assert {name for name in options if "client" in name} == {"--ray-client-server-port"}


def test_a_raylet_is_told_the_port_of_its_agent_where_one_was_given(monkeypatch):
    from ray._private import ray_constants, services

    started = []
    monkeypatch.setattr(
        services, "start_ray_process", lambda command, kind: started.append(command)
    )
    with_agent_port(services)
    agent = "--dashboard_agent_command=agent.py --listen-port={} --grpc-port=8091"
    for kind, port in (
        (ray_constants.PROCESS_TYPE_RAYLET, 52365),
        ("gcs_server", 52365),
        ("raylet", 0),
    ):
        services.start_ray_process(["raylet", agent.format(port)], kind)
    assert [command[2:] for command in started] == [["--dashboard_agent_listen_port=52365"], [], []]
