"""The part of a kubelet's API that gives logs: `kubectl logs` and `sonoray k8s submit` read it."""

import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from network import NODE_IP, run
from pods import Pod

PORT = 10250
_POLL_S = 0.2


def serve(folder: Path, find: Callable[[str, str], Pod | None]) -> None:
    """Answer for ever.

    Args:
        folder: where the server's certificate is made.
        find: gives the Pod of a namespace and name.
    """
    key, certificate = folder / "node.key", folder / "node.crt"
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj=/CN=node"),
        *(f"-keyout={key}", f"-out={certificate}"),
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            words = parts.path.strip("/").split("/")
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            pod = find(words[1], words[2]) if words[:1] == ["containerLogs"] else None
            container = pod.containers.get(words[3]) if pod else None
            if container is None or not container.log.is_file():
                self.send_error(404, "no such container has begun")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            try:
                self._send(container, query)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _send(self, container: Any, query: dict[str, str]) -> None:
            since = query.get("sinceTime", "").rstrip("Z")
            stamped, follow = query.get("timestamps") == "true", query.get("follow") == "true"
            with container.log.open("rb") as log:
                while True:
                    over = container.ended() is not None
                    for line in log:
                        stamp, _, text = line.partition(b" ")
                        if stamp.decode().rstrip("Z") >= since:
                            self.wfile.write(line if stamped else text)
                    self.wfile.flush()
                    if over or not follow:
                        return
                    time.sleep(_POLL_S)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer((NODE_IP, PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()
