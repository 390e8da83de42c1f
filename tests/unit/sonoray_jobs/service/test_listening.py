import socket

import pytest

from sonoray.errors import ServingError
from sonoray_jobs.service.listening import check_port, free_port


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 8000), ("127.0.0.1", 70_000)])
def test_address_that_is_not_ours_is_named(host: str, port: int):
    with pytest.raises(ServingError, match=f"port {port} of '{host}'"):
        check_port(host, port)


def test_free_port_is_free_until_somebody_takes_it():
    port = free_port()
    check_port("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)) as server:
        assert server.getsockname() == ("127.0.0.1", port)
        with pytest.raises(ServingError, match=f"port {port}"):
            check_port("127.0.0.1", port)
