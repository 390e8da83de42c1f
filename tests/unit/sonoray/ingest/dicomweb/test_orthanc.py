"""`sonoray ingest dicomweb` against a real Orthanc, directly and through a proxy with faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import urllib3

from sonoray.errors import DataError, JobFailedError
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicomweb.server_url import PASSWORD_VARIABLE, USER_VARIABLE
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.ingest.source_options import SourceOptions
from sonoray.ingest.sources.dicom_archive import DicomSource
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data.ingest import run
from sonoray_jobs.data.quarantine import retry
from sonoray_jobs.data.reject_names import locate
from sonoray_jobs.data.rejects import read_rejects
from sonoray_jobs.road.config import RoadConfig, load_road

ROAD = RoadConfig.model_validate(
    {"dicomweb": {"backoff_s": 0.01, "max_backoff_s": 0.02, "tries": 3, "page_size": 4}}
)
MADE = ("StudyDate=20200101-20201231",)
ROOTS = ("platform", "model", "jobs", "serve")


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture(autouse=True)
def credentials(orthanc, monkeypatch):
    monkeypatch.setenv(USER_VARIABLE, orthanc.user)
    monkeypatch.setenv(PASSWORD_VARIABLE, orthanc.password)


def bring(workspace, url, road=ROAD, **options):
    given = {"query": MADE, **options}
    options = SourceOptions(url=url, **given)
    return run(workspace=workspace, road=road, dataset="dicomweb", options=options)


def told(folder):
    """Everything of the studies but where they are from."""
    return [
        (
            *(study.study_id, study.patient_key, study.split, dict(study.labels), study.turns),
            [(image.image_id, image.frame_index, dict(image.labels)) for image in study.images],
        )
        for study in iter_studies(folder, complete=False)
    ]


def instance_of(request):
    """The SOP Instance UID that a request wants; empty if it is another request."""
    parts = request.path.split("/")
    return parts[-1] if "series" in parts else ""


def test_a_wildcard_reaches_the_server_as_it_stands(orthanc, workspace):
    every = bring(workspace, orthanc.url, ROAD, query=("PatientID=P*",), name="every")
    one = bring(workspace, orthanc.url, ROAD, query=("PatientID=?1",), name="one")
    assert every.studies.seen > one.studies.seen > 0


def test_the_same_objects_give_the_same_studies_as_from_a_folder(orthanc, workspace, tmp_path):
    dicom = DicomConfig(missing_patient="per_study")
    reports = tmp_path / "reports.csv"
    reports.write_text("accession,report\nACC1,甲状腺未见异常。\n", encoding="utf-8")
    road = ROAD.model_copy(update={"dicom": dicom})
    web = bring(workspace, orthanc.url, road, query=("ModalitiesInStudy=",), reports=reports)
    folder = ingest(DicomSource(orthanc.folder, dicom, reports=reports), workspace, IngestConfig())
    summary = folder.manifest["summary"]
    objects = len(list(orthanc.folder.iterdir()))
    assert web.fetch is not None
    assert (web.fetch.listed, web.fetch.failed) == (objects, 0)
    assert web.fetch.fetched + web.fetch.left == objects
    assert web.reasons.get("other_modality", 0) == web.fetch.left
    assert vars_of(web.images) == summary["images"]
    assert vars_of(web.studies) == summary["studies"]
    assert web.studies.kept >= 6
    assert told(Path(web.path)) == told(folder.path)
    # nothing that identifies, and no credential, is in what was written; the objects are gone
    assert not workspace.spool("dicomweb").exists()
    secrets = [orthanc.user, orthanc.password, "Secret", "ACC2", "1.2.1.0.2"]
    for file in workspace.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], file


def vars_of(accounting):
    return {
        name: getattr(accounting, name) for name in ("seen", "kept", "duplicate", "quarantined")
    }


def test_a_second_time_nothing_is_fetched_and_the_order_of_answers_is_nothing(
    orthanc, proxy, workspace, reply
):
    first = bring(workspace, orthanc.url)
    assert first.studies.kept == 6
    http = proxy()

    def reversed_pages(request, _):
        if instance_of(request) or request.fields.get("offset", "0") != "0":
            return None if instance_of(request) else reply(json_value=[])
        found = http_json(http, request, orthanc)
        return reply(json_value=found[::-1])

    server = proxy(reversed_pages)
    again = bring(workspace, server.url)
    assert again.reused
    assert again.path == first.path
    assert not [request for request in server.requests if instance_of(request)]
    assert not workspace.spool("dicomweb").exists()


def http_json(server, request, orthanc):
    """What a query means without paging."""
    fields = {key: value for key, value in request.fields.items() if key not in ("limit", "offset")}
    root = server.url.removesuffix("/dicom-web")
    headers = {"Accept": request.headers["Accept"], **orthanc.headers}
    return urllib3.request("GET", root + request.path, fields=fields, headers=headers).json()


def test_faults_that_pass_change_nothing_and_are_counted(orthanc, proxy, workspace, reply):
    """Each object meets a fault of its own at first; the second page of studies repeats."""
    undisturbed = bring(workspace, orthanc.url, name="undisturbed")
    faults = (
        {"status": 503, "headers": {"Retry-After": "1"}},
        {"status": 429},
        {"body": b"cut", "headers": {"Content-Length": "99", "Content-Type": "application/dicom"}},
        {"body": b"cut", "headers": {"Content-Length": "", "Content-Type": "application/dicom"}},
        {"body": b"--b\r\n\r\nDICM", "headers": {"Content-Type": "multipart/related; boundary=b"}},
        {"status": 500},
    )
    seen = []
    plain = proxy()

    def fault(request, number):
        uid = instance_of(request)
        if uid and uid not in seen:
            seen.append(uid)
            return reply(**faults[len(seen) % len(faults)])
        if request.path.endswith("/studies") and number == 2:  # the first page once more
            found = http_json(plain, request, orthanc)
            return reply(json_value=found[: int(request.fields["limit"])])
        return None

    disturbed = bring(workspace, proxy(fault).url, name="disturbed")
    assert len(seen) == 20
    assert disturbed.fetch is not None
    assert (disturbed.fetch.retried, disturbed.fetch.failed) == (20, 0)
    assert "retried 20 requests" in "\n".join(disturbed.lines())
    assert disturbed.to_json()["fetch"]["retried"] == 20
    assert told(Path(disturbed.path)) == told(Path(undisturbed.path))


def test_what_cannot_be_fetched_is_quarantined_and_fetched_by_a_retry(proxy, workspace, reply):
    broken = {"1.2.1.0.2": 404, "1.2.1.1.3": 500, "1.2.4.1.1": 404}
    is_broken = True

    def fault(request, _):
        uid = instance_of(request)
        if is_broken and uid in broken:
            return reply(broken[uid])
        if is_broken and request.path.endswith("/1.2.2/instances"):
            return reply(500)
        return None

    server = proxy(fault)
    result = bring(workspace, server.url, name="kidney")
    assert result.fetch is not None
    assert (result.fetch.listed, result.fetch.fetched, result.fetch.failed) == (18, 15, 4)
    # two frames an object; the study 1.2.4 lost its one object, 1.2.2 has no list
    assert vars_of(result.images) == {"seen": 33, "kept": 30, "duplicate": 0, "quarantined": 3}
    assert vars_of(result.studies) == {"seen": 6, "kept": 4, "duplicate": 0, "quarantined": 2}
    rows = sorted((row.item, row.reason, row.message) for row in read_rejects(Path(result.path)))
    assert rows == [
        ("image", "fetch_failed", "HTTP 404"),
        ("image", "fetch_failed", "HTTP 404"),
        ("image", "fetch_failed", "HTTP 500"),
        ("study", "empty_study", "none of its images could be used"),
        ("study", "fetch_failed", "HTTP 500"),
    ]
    spool = workspace.spool("kidney")
    assert result.fetch.kept_in == str(spool)
    assert str(spool) in "\n".join(result.lines())

    # the same again: only what failed is asked for, and the dataset stands
    server.requests.clear()
    assert bring(workspace, server.url, name="kidney").reused
    assert {instance_of(request) for request in server.requests} - {""} == set(broken)

    is_broken = False
    server.requests.clear()
    retried = retry(workspace=workspace, road=ROAD, dataset="kidney")
    wanted = {*broken, "1.2.2.1.1", "1.2.2.0.2"}
    assert {instance_of(request) for request in server.requests} - {""} == wanted
    assert len(retried.accepted) == 5
    assert [retried.gone, retried.still, retried.newly] == [[], [], []]
    assert retried.new_studies == 2
    assert not spool.exists()


def test_rejects_are_named_by_their_place_on_the_server_and_nothing_is_fetched(
    proxy, workspace, reply, tmp_path
):
    """Lost objects, a study without a list, frames of a rejected study, a row of reports."""
    is_broken = True

    def fault(request, _):
        is_lost = instance_of(request) == "1.2.1.0.2" or request.path.endswith("/1.2.2/instances")
        return reply(404) if is_broken and is_lost else None

    table = tmp_path / "r.csv"
    table.write_text("study_uid,report\n1.2.4,a\n1.2.4,b\n\n9.9,c\n")
    server = proxy(fault)
    result = bring(workspace, server.url, reports=table)
    assert vars_of(result.studies)["quarantined"] == 2
    assert result.rows == 1
    files = {file: file.read_bytes() for file in workspace.root.rglob("*") if file.is_file()}
    is_broken = False
    server.requests.clear()
    found = locate(workspace=workspace, road=ROAD, dataset="dicomweb")
    assert not [request for request in server.requests if instance_of(request)]
    assert sorted((row.item, row.reason, where) for row, where in found.rows) == [
        ("image", "fetch_failed", "study 1.2.1 series 1.2.1.0 instance 1.2.1.0.2"),
        ("image", "study_rejected", "study 1.2.4 series 1.2.4.1 instance 1.2.4.1.1"),
        ("image", "study_rejected", "study 1.2.4 series 1.2.4.1 instance 1.2.4.1.1 frame 2"),
        ("row", "no_images", "line 5 of the table of reports"),
        ("study", "conflicting_reports", "study 1.2.4"),
        ("study", "fetch_failed", "study 1.2.2"),
    ]
    assert found.missing == 0
    assert {file: file.read_bytes() for file in files} == files


def test_objects_that_are_no_dicom_are_named_too_and_those_that_went_are_counted(
    proxy, workspace, reply
):
    hidden = ""

    def fault(request, _):
        if instance_of(request) == "1.2.3.1.1":
            return reply(body=b"no object", headers={"Content-Type": "application/dicom"})
        if instance_of(request) == "1.2.3.0.2":
            return reply(404)
        if hidden and request.path.endswith("/studies"):
            return reply(json_value=[])
        return None

    bring(workspace, proxy(fault).url)
    found = locate(workspace=workspace, road=ROAD, dataset="dicomweb")
    assert sorted((row.reason, where) for row, where in found.rows) == [
        ("fetch_failed", "study 1.2.3 series 1.2.3.0 instance 1.2.3.0.2"),
        ("no_study", "files of no study"),
        ("not_dicom", "study 1.2.3 series 1.2.3.1 instance 1.2.3.1.1"),
    ]
    hidden = "all"
    gone = locate(workspace=workspace, road=ROAD, dataset="dicomweb")
    assert [where for _, where in gone.rows] == ["files of no study"]
    assert gone.missing == 2
    assert "1 rejects found in the source, 2 not there now" in gone.lines()[0]


def test_an_object_above_the_limit_is_quarantined(orthanc, workspace):
    limits = {"limits": {"max_object_bytes": 3000}}
    road = ROAD.model_copy(update={"dicom": DicomConfig.model_validate(limits)})
    with pytest.raises(DataError, match="too_many_bytes 1"):
        bring(workspace, orthanc.url, road, query=(*MADE, "StudyInstanceUID=1.2.4"))


def test_a_server_that_goes_away_ends_it_and_what_was_fetched_stays(
    orthanc, proxy, workspace, reply
):
    fetched = []

    def fault(request, _):
        if uid := instance_of(request):
            if len(fetched) == 7:
                threading.Thread(target=server.close).start()
                return reply(503)
            fetched.append(uid)
        return None

    server = proxy(fault)
    road = ROAD.model_copy(
        update={"dicomweb": ROAD.dicomweb.model_copy(update={"requests_in_flight": 1, "tries": 50})}
    )
    with pytest.raises(
        JobFailedError, match=r"is gone \(no connection\); what was fetched is kept"
    ):
        bring(workspace, server.url, road)
    assert len(list(workspace.spool("dicomweb").iterdir())) == 7 + 1  # and the lock
    second = proxy()
    result = bring(workspace, second.url)
    assert result.studies.kept == 6
    asked = {instance_of(request) for request in second.requests} - {""}
    assert len(asked) == 13
    assert not asked & set(fetched)


def test_wrong_credentials_and_a_wrong_url_are_one_line(orthanc, workspace, monkeypatch):
    with pytest.raises(DataError, match=r"cannot be searched \(HTTP 404\); check the URL"):
        bring(workspace, f"{orthanc.root}/dicom")
    monkeypatch.setenv(PASSWORD_VARIABLE, "no-such-password")
    with pytest.raises(DataError, match="refuses the credentials") as raised:
        bring(workspace, orthanc.url)
    assert "no-such-password" not in str(raised.value)
    assert not workspace.dataset_names()


def test_a_killed_ingest_goes_on_where_it_was(orthanc, proxy, tmp_path, workspace):
    """The real command, with kill -9 while eight of twenty objects are here and four come."""
    undisturbed = bring(workspace, orthanc.url, load_road("tiny"), name="pacs")
    other = Workspace.open(tmp_path / "other")
    shutil.copy2(workspace.root / "identity.key", other.root)
    fetched, go_on = [], threading.Event()
    lock = threading.Lock()

    def fault(request, _):
        if uid := instance_of(request):
            with lock:
                if len(fetched) < 8:
                    fetched.append(uid)
                    return None
            go_on.wait()
        return None

    roots = [str(Path(__file__).parents[5] / root) for root in ROOTS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(roots)}
    server = proxy(fault)

    def command():
        arguments = ["ingest", "dicomweb", server.url, "--query", MADE[0], "--name", "pacs"]
        more = ["--workspace", str(other.root), "--set", "dicomweb.page_size=4", "--json"]
        return [sys.executable, "-m", "sonoray_jobs.cli", *arguments, *more]

    killed = subprocess.Popen(command(), env=environment, stderr=subprocess.PIPE)
    spool = other.spool("pacs")
    deadline = time.monotonic() + 300
    while sum(path.suffix == "" for path in spool.glob("[!.]*")) < 8:
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    go_on.set()
    assert spool.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in spool.iterdir()}
    assert not [name for name in names if "1.2." in name]

    server.requests.clear()
    rerun = subprocess.run(command(), env=environment, capture_output=True, check=False)
    assert rerun.returncode == 0, rerun.stderr
    asked = [instance_of(request) for request in server.requests if instance_of(request)]
    assert len(asked) == len(set(asked)) == 12
    assert not set(asked) & set(fetched)
    shown = json.loads(rerun.stdout)
    assert shown["fetch"]["fetched"] == 12
    assert not spool.exists()
    same = Path(shown["path"])
    assert same.name == Path(undisturbed.path).name
    paths = (same, Path(undisturbed.path))
    manifests = [json.loads((path / "manifest.json").read_text()) for path in paths]
    assert manifests[0] == manifests[1]
    assert orthanc.password.encode() not in rerun.stderr
    assert b"1.2." not in rerun.stderr.replace(b"127.0.0.1", b"")
