"""Objects that are asked for a second time, and objects that are left where they are."""

import pytest
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage

from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.fetch import fetch_objects
from sonoray.ingest.dicomweb.search import Instance
from sonoray.ingest.dicomweb.server_url import read_address
from sonoray.ingest.dicomweb.spool import open_spool
from sonoray.ingest.sources.dicomweb_server import DicomWebSource
from sonoray.privacy.keys import IdentityKey

CONFIG = DicomWebConfig(backoff_s=0, max_backoff_s=0, tries=2, page_size=10)
INSTANCE = Instance(study_uid="1.1", series_uid="1.1.1", instance_uid="1.1.1.1")
UNREAD = UID("1.2.840.10008.1.2.4.94")
BARE = {"Content-Type": "application/dicom"}


@pytest.fixture
def fetch(serve, reply, connect, tmp_path):
    """Fetch one object of which a server has two codings; what came, the file, the requests."""

    def run(stored, converted, *, status=200):
        def answer(request, _):
            as_stored = request.headers["Accept"].endswith("transfer-syntax=*")
            if as_stored:
                return reply(status, body=stored, headers=BARE)
            return reply(200 if converted else 406, body=converted, headers=BARE)

        server = serve(answer)
        with open_spool(
            tmp_path / "spool", lambda uid: uid, max_object_bytes=10**6, max_bytes=10**7
        ) as spool:
            came = fetch_objects(connect(server.url, CONFIG), [INSTANCE], spool, CONFIG)
            path = spool.path(INSTANCE.instance_uid)
            content = path.read_bytes() if path.exists() else b""
        return came, content, [request.headers["Accept"] for request in server.requests]

    return run


def test_an_object_that_is_read_as_stored_is_asked_for_once(fetch, make_object, make_picture):
    stored = make_object(make_picture()[None])
    came, content, asked = fetch(stored, b"")
    assert (dict(came.problems), came.num_converted, content) == ({}, 0, stored)
    assert len(asked) == 1


def test_what_is_not_read_is_asked_for_as_explicit_little_endian(fetch, make_object, make_picture):
    stored = make_object(make_picture()[None], UNREAD, frames=[b"?"])
    converted = make_object(make_picture()[None])
    came, content, asked = fetch(stored, converted)
    assert (dict(came.problems), came.num_converted, content) == ({}, 1, converted)
    assert asked[1].endswith(f"transfer-syntax={ExplicitVRLittleEndian}")
    assert len(asked) == 2


def test_where_the_server_does_not_convert_the_first_answer_stands(
    fetch, make_object, make_picture
):
    stored = make_object(make_picture()[None], UNREAD, frames=[b"?"])
    came, content, asked = fetch(stored, b"")
    assert (dict(came.problems), came.num_converted, content) == ({}, 0, stored)
    assert len(asked) == 2


def test_a_server_that_gives_nothing_as_stored_is_asked_too(fetch, make_object, make_picture):
    converted = make_object(make_picture()[None])
    came, content, _ = fetch(b"", converted, status=406)
    assert (dict(came.problems), came.num_converted, content) == ({}, 1, converted)
    came, _, asked = fetch(b"", b"", status=404)
    assert came.problems == {}  # it lies in the spool
    assert not asked


def test_an_object_that_is_not_there_is_asked_for_once(fetch):
    came, content, asked = fetch(b"", b"", status=404)
    assert (dict(came.problems), content) == ({INSTANCE: "fetch_failed: HTTP 404"}, b"")
    assert len(asked) == 1


def item(number, **given):
    values = {"0020000D": "1.1", "0020000E": f"1.1.{number}", "00080018": f"1.1.{number}.1"}
    return {tag: {"Value": [value]} for tag, value in (values | given).items()}


def test_objects_of_other_modalities_are_listed_and_not_fetched(
    serve, reply, make_object, make_picture, tmp_path
):
    listed = [
        item(1, **{"00080016": UltrasoundImageStorage, "00080060": "US"}),
        item(2, **{"00080016": CTImageStorage, "00080060": "CT"}),
        item(3),  # a server that tells neither
    ]
    body = make_object(make_picture()[None], StudyInstanceUID="1.1")

    def answer(request, _):
        if "series" in request.path.split("/"):
            return reply(body=body, headers=BARE)
        if request.fields.get("offset", "0") != "0":
            return reply(json_value=[])
        return reply(json_value=listed if "instances" in request.path else listed[:1])

    server = serve(answer)
    source = DicomWebSource(read_address(server.url, environment={}), (), CONFIG)
    with source.fetched(tmp_path / "spool", IdentityKey.public(), is_needed=True):
        (study,) = source.iter_studies()
    fetched = [request.path[-7:] for request in server.requests if "/series/" in request.path]
    assert sorted(fetched) == ["1.1.1.1", "1.1.3.1"]
    problems = {image.ref: image.problem for image in study.images}
    assert problems["1.1.1.1"] == problems["1.1.3.1"] == ""
    assert problems["1.1.2.1"].startswith("other_modality: CT (CT Image Storage)")
    counts = source.fetch_counts()
    assert (counts.listed, counts.fetched, counts.left, counts.failed) == (3, 2, 1, 0)
    assert "lacks" not in study.labels
    assert not (tmp_path / "spool").exists()
