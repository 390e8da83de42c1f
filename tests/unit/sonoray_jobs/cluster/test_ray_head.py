"""Ray's command line asks whether Ray Client can be had in the way that `ray_head` answers."""

from sonoray_jobs.cluster.ray_head import without_client


def test_ray_asks_what_is_answered_and_has_no_option_of_its_own(monkeypatch):
    from ray.scripts import scripts

    asked = scripts.get_ray_client_dependency_error
    monkeypatch.setattr(scripts, "get_ray_client_dependency_error", asked)
    assert asked() is None  # grpc is there, so that Ray would start the server
    without_client(scripts)
    assert isinstance(scripts.get_ray_client_dependency_error(), ImportError)
    options = {name for option in scripts.start.params for name in option.opts}
    assert {name for name in options if "client" in name} == {"--ray-client-server-port"}
