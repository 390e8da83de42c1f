"""A small real HTTP server that misbehaves as it is told, and a real Orthanc with DICOMweb."""

import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pydicom
import pytest
import urllib3
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from sonoray.ingest.dicomweb.client import DicomWebClient
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.server_url import read_address

QUICK = DicomWebConfig(backoff_s=0, max_backoff_s=0, tries=3)


@dataclass(kw_only=True)
class Reply:
    """What the server sends; a `Content-Length` of one's own may lie."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0
    """Before each byte of the body."""


@dataclass(kw_only=True)
class Request:
    """What was asked."""

    path: str
    fields: dict[str, str]
    headers: dict[str, str]


class Server:
    """Answers with what `answer` makes of a request and its number."""

    def __init__(self, answer, certificate=None):
        self.requests: list[Request] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                request = Request(
                    path=unquote(parts.path),
                    fields=dict(parse_qsl(parts.query)),
                    headers=dict(self.headers),
                )
                server.requests.append(request)
                reply = answer(request, len(server.requests))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in reply.headers:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if not reply.pause_s:
                    self.wfile.write(reply.body)
                    return
                for number in range(len(reply.body)):
                    if server.closing.wait(reply.pause_s):
                        return
                    self.wfile.write(reply.body[number : number + 1])

            def log_message(self, *_):
                pass

        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # clients that were killed
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._http.server_port}/dicom-web"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        """Stop listening; a second time does nothing."""
        if not self.closing.is_set():
            self.closing.set()
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a server from a function of the request and its number."""
    servers = []

    def start(answer, certificate=None):
        servers.append(Server(answer, certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def reply():
    """Build a reply; `json` takes a value in place of a body."""

    def build(status=200, *, json_value=None, **given):
        if json_value is not None:
            given["body"] = json.dumps(json_value).encode()
            given.setdefault("headers", {})["Content-Type"] = "application/dicom+json"
        return Reply(status=status, **given)

    return build


@pytest.fixture
def connect():
    """Make a client of a server, quick and without credentials unless told otherwise."""

    def make(url, config=QUICK, environment=None):
        return DicomWebClient(read_address(url, environment=environment or {}), config)

    return make


@dataclass(frozen=True, kw_only=True)
class Orthanc:
    """A running server, and what is in it."""

    root: str
    user: str
    password: str
    folder: Path
    """The same objects as files."""

    @property
    def url(self) -> str:
        return f"{self.root}/dicom-web"

    @property
    def headers(self) -> dict[str, str]:
        return dict(urllib3.make_headers(basic_auth=f"{self.user}:{self.password}"))


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc of this test run: its own configuration, storage and port, loopback alone."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    plugins = sorted(Path("/usr/lib/orthanc").glob("libOrthancDicomWeb.so*"))
    if program is None or not plugins:
        pytest.skip("no Orthanc with its DICOMweb plugin; run: make orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"tester": "pass-of-the-test"},
        "Plugins": [str(plugins[-1])],
        "DicomWeb": {"Enable": True},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    (folder / "objects").mkdir()
    server = Orthanc(
        root=f"http://127.0.0.1:{port}",
        user="tester",
        password="pass-of-the-test",
        folder=folder / "objects",
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
        try:
            _wait_for(server, process, folder / "log")
            _fill(server)
            yield server
        finally:
            process.terminate()
            process.wait()


def _wait_for(server, process, log):
    http = urllib3.PoolManager(retries=False, timeout=5)
    deadline = time.monotonic() + 240  # the machine may be busy
    while time.monotonic() < deadline and process.poll() is None:
        try:
            http.request("GET", f"{server.root}/system", headers=server.headers)
        except urllib3.exceptions.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"Orthanc has not started: {log.read_text()[-2000:]}")


def _fill(server):
    """Load 20 made objects of 6 studies, and those of the shared data that differ by their UID."""
    shared = Path(
        os.environ.get("SONORAY_SHARED_DATA", Path(__file__).parents[6] / "shared" / "data")
    )
    real = [path.read_bytes() for path in sorted((shared / "us_dicom").glob("*/*.dcm"))]
    known = set()
    http = urllib3.PoolManager()
    for data in [*_make_objects(), *real]:
        uid = str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)
        if uid not in known:
            known.add(uid)
            (server.folder / f"{len(known):03}.dcm").write_bytes(data)
            url = f"{server.root}/instances"
            answer = http.request("POST", url, body=data, headers=server.headers)
            assert answer.status == 200, answer.data


def _make_objects() -> Iterator[bytes]:
    """Studies `1.2.N` of 2020, of 5 patients, with 1 to 6 objects in one or two series."""
    for study in range(1, 7):
        for number in range(1, (6, 2, 3, 1, 4, 4)[study - 1] + 1):
            seed = 100 * study + number
            pixels = np.random.default_rng(seed).integers(0, 256, (2, 40, 48), dtype=np.uint8)
            data = Dataset()
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UltrasoundImageStorage
            data.SOPInstanceUID = f"1.2.{study}.{number % 2}.{number}"
            data.SeriesInstanceUID = f"1.2.{study}.{number % 2}"
            data.StudyInstanceUID = f"1.2.{study}"
            data.PatientID = f"P{min(study, 5)}"
            data.PatientName = "Secret^Name"
            data.Modality = "US"
            data.StudyDate = f"2020010{study}"
            data.AccessionNumber = f"ACC{study}"
            data.BodyPartExamined = "THYROID" if study % 2 else "BREAST"
            data.SeriesNumber, data.InstanceNumber = number % 2, number
            data.SamplesPerPixel, data.NumberOfFrames = 1, len(pixels)
            data.PhotometricInterpretation = "MONOCHROME2"
            data.Rows, data.Columns = pixels.shape[1:]
            data.BitsAllocated = data.BitsStored = 8
            data.HighBit, data.PixelRepresentation = 7, 0
            data.PixelData = pixels.tobytes()
            data["PixelData"].VR = "OB"
            file = io.BytesIO()
            data.save_as(file, enforce_file_format=True)
            yield file.getvalue()


@pytest.fixture
def proxy(serve, orthanc) -> Callable[..., Server]:
    """Start a reverse proxy before Orthanc; `fault` may answer a request in its place."""
    http = urllib3.PoolManager()

    def start(fault=lambda *_: None):
        def answer(request, number):
            reply = fault(request, number)
            if reply is not None:
                return reply
            wanted = {"Accept": request.headers["Accept"], **orthanc.headers}
            url = orthanc.root + request.path
            found = http.request("GET", url, fields=request.fields, headers=wanted)
            kind = {"Content-Type": found.headers.get("Content-Type", "")}
            return Reply(status=found.status, body=found.data, headers=kind)

        return serve(answer)

    return start
