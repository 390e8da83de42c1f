import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.ingest.dicomweb.client import FetchFailedError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.fetch import list_instances
from sonoray.ingest.dicomweb.search import Instance, find_instances, find_studies, read_query

CONFIG = DicomWebConfig(page_size=3, backoff_s=0, tries=2)
STUDIES = [f"1.{number}" for number in (8, 3, 1, 9, 2, 5, 7, 4)]


def item(**uids):
    tags = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}
    return {tags[name]: {"vr": "UI", "Value": [uid]} for name, uid in uids.items()}


def page(values, fields, *, largest=99):
    """What a good server gives."""
    offset = int(fields.get("offset", 0))
    return values[offset : offset + min(int(fields.get("limit", 99)), largest)]


def honest(values, fields, _):
    return page(values, fields)


def gives_less_than_asked_for(values, fields, _):
    return page(values, fields, largest=2)


def ignores_the_offset(values, fields, _):
    return page(values, {**fields, "offset": "0"})


def ignores_both(values, _, __):
    return values


def repeats_a_page_once(values, fields, number):
    return page(values, {**fields, "offset": "0"} if number == 2 else fields)


def repeats_a_page_and_gives_less(values, fields, number):
    return page(values, {**fields, "offset": "0"} if number == 2 else fields, largest=5)


def gives_no_second_page(values, fields, _):
    return page(values, fields) if fields.get("offset", "0") == "0" else []


def overlaps(values, fields, _):
    return page(values, {**fields, "offset": str(max(int(fields.get("offset", 0)) - 1, 0))})


@pytest.mark.parametrize(
    "server_kind",
    [
        honest,
        gives_less_than_asked_for,
        ignores_the_offset,
        ignores_both,
        repeats_a_page_once,
        repeats_a_page_and_gives_less,
        gives_no_second_page,
        overlaps,
    ],
)
def test_every_study_is_found_once_whatever_the_pages_are(serve, reply, connect, server_kind):
    items = [item(study=uid) for uid in STUDIES]
    server = serve(lambda asked, n: reply(json_value=server_kind(items, asked.fields, n)))
    found = find_studies(connect(server.url), (("ModalitiesInStudy", "US"),), CONFIG)
    assert found == sorted(STUDIES)
    assert len(server.requests) < 10
    assert {each.path for each in server.requests} == {"/dicom-web/studies"}
    assert {each.fields["ModalitiesInStudy"] for each in server.requests} == {"US"}


@pytest.mark.parametrize(
    "server_kind",
    [honest, gives_less_than_asked_for, ignores_the_offset, ignores_both, gives_no_second_page],
)
def test_every_instance_of_a_study_is_found_once(serve, reply, connect, server_kind):
    items = [item(series="2.1", instance=uid) for uid in STUDIES]
    server = serve(lambda asked, n: reply(json_value=server_kind(items, asked.fields, n)))
    found = find_instances(connect(server.url), "1.1", CONFIG)
    assert [each.instance_uid for each in found] == sorted(STUDIES)
    if server_kind is honest:
        assert len(server.requests) == 2


def test_a_server_that_repeats_itself_and_has_more_is_no_source(serve, reply, connect):
    items = [item(study=uid) for uid in STUDIES]

    def answer(asked, _):
        return reply(json_value=items[:3], headers={"Warning": '299 s "more results"'})

    with pytest.raises(DataError, match="lead nowhere and it does not give all at once"):
        find_studies(connect(serve(answer).url), (), CONFIG)


def test_nothing_found_is_no_error(serve, reply, connect):
    assert find_studies(connect(serve(lambda *_: reply(204)).url), (), CONFIG) == []
    assert find_studies(connect(serve(lambda *_: reply(json_value=[])).url), (), CONFIG) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"status": 404}, r"cannot be searched \(HTTP 404\); check the URL"),
        ({"status": 403}, "HTTP 403.; .*what you may do there"),
        ({"body": b"<html>", "headers": {"Content-Type": "text/html"}}, "the answer is HTML"),
        ({"body": b"12!", "headers": {"Content-Type": "text/plain"}}, "the answer is no JSON"),
        ({"body": b"[{", "headers": {"Content-Type": "application/json"}}, "cut off"),
        ({"body": b"", "headers": {"Content-Length": ""}}, "cut off"),
        ({"json_value": {"a": 1}}, "the answer is no list"),
        ({"json_value": ["x"]}, "no usable UID 0020000D"),
        ({"json_value": [item(study="../../secret")]}, "no usable UID 0020000D"),
        ({"json_value": [item(study="..")]}, "no usable UID 0020000D"),
        ({"json_value": [{"0020000D": {"vr": "UI"}}]}, "no usable UID 0020000D"),
        ({"body": b"[" + b" " * 2000 + b"]"}, r"raise dicomweb\.max_search_bytes"),
    ],
)
def test_what_is_no_search_is_one_line(serve, reply, connect, given, message):
    config = CONFIG.model_copy(update={"max_search_bytes": 1000})
    with pytest.raises(DataError, match=message) as raised:
        find_studies(connect(serve(lambda *_: reply(**given)).url), (), config)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_an_instance_of_two_series_is_one_and_a_study_may_fail(serve, reply, connect):
    instances = {
        "1.1": [("2.2", "3.1"), ("2.1", "3.2")],
        "1.2": [("2.3", "3.1"), ("2.3", "3.3"), ("2.4", "3.3")],
    }

    def answer(asked, _):
        parts = asked.path.split("/")[2:]
        if parts == ["studies"]:
            values = [item(study=uid) for uid in ("1.3", "1.2", "1.1")]
        elif parts[1] == "1.3":
            return reply(500)
        else:
            values = [item(series=series, instance=uid) for series, uid in instances[parts[1]]]
        return reply(json_value=page(values, asked.fields))

    listing = list_instances(connect(serve(answer).url), (), CONFIG)
    assert listing.instances == [
        Instance(study_uid=study, series_uid=series, instance_uid=uid)
        for study, series, uid in (
            ("1.1", "2.1", "3.2"),
            ("1.1", "2.2", "3.1"),
            ("1.2", "2.3", "3.3"),
        )
    ]
    assert listing.failed_studies == [("1.3", "fetch_failed: HTTP 500")]


def test_an_instance_without_its_series_cannot_be_fetched(serve, reply, connect):
    server = serve(lambda *_: reply(json_value=[item(instance="3.1")]))
    with pytest.raises(FetchFailedError, match="no usable UID 0020000E"):
        find_instances(connect(server.url), "1.1", CONFIG)


def test_a_query_adds_to_the_default_and_replaces_it():
    assert read_query(()) == (("ModalitiesInStudy", "US"),)
    given = ("StudyDate=20200101-20231231", "00080061=MR", "PatientName=A=B")
    assert dict(read_query(given)) == {
        "ModalitiesInStudy": "US",
        "StudyDate": "20200101-20231231",
        "00080061": "MR",
        "PatientName": "A=B",
    }
    assert read_query(("ModalitiesInStudy=SR",)) == (("ModalitiesInStudy", "SR"),)
    assert read_query(("ModalitiesInStudy=",)) == ()
    assert dict(read_query(("fuzzymatching=true",)))["fuzzymatching"] == "true"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("Secret",), "not KEY=VALUE"),
        (("Studydate=Secret",), "'Studydate' is no DICOM attribute"),
        (("limit=7",), "'limit' is no DICOM attribute"),
        (("StudyDate=Secret", "StudyDate=Secret"), "'StudyDate' is given twice"),
    ],
)
def test_a_query_that_a_server_would_ignore_is_refused(texts, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_query(texts)
    assert "Secret" not in str(raised.value)
