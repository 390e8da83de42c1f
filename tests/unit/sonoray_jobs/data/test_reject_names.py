import numpy as np
import pytest
from PIL import Image, ImageFilter

from sonoray.errors import DataError
from sonoray.ingest.source_options import SourceOptions
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.data.quarantine import list_rows, retry
from sonoray_jobs.data.reject_names import locate
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig()


@pytest.fixture
def private(tmp_path):
    """A table of two patients, one image of which is damaged; the workspace."""
    folder = tmp_path / "lab"
    (folder / "Bantel Qxvor").mkdir(parents=True)
    (folder / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(folder / "images" / "good.png")
    (folder / "Bantel Qxvor" / "bad.png").write_bytes(b"no image")
    (folder / "t.csv").write_text(
        "study,patient,image,report\n"
        "s-good,p1,images/good.png,none\n"
        "s-bad,p2,Bantel Qxvor/bad.png,none\n"
    )
    opened = Workspace.open(tmp_path / "ws")
    options = SourceOptions(path=folder / "t.csv", name="lab")
    ingest.run(workspace=opened, road=ROAD, dataset="table", options=options)
    return opened


def test_the_rejects_of_a_private_source_are_named_to_the_operator_alone(private):
    listed = list_rows(workspace=private, dataset="lab")
    shown = "\n".join(listed.lines())
    assert shown.endswith("names: sonoray quarantine locate lab")
    assert all(each.source_ref[:12] in shown for each in listed.rows)
    assert not any(each.source_ref in shown for each in listed.rows)
    assert "Qxvor" not in str(listed.to_json())
    files = {file: file.read_bytes() for file in private.root.rglob("*") if file.is_file()}
    found = locate(workspace=private, road=ROAD, dataset="lab")
    names = {(row.item, name) for row, name in found.rows}
    assert names == {
        ("image", "Bantel Qxvor/bad.png"),
        ("study", "s-bad, Bantel Qxvor/bad.png"),
    }
    assert found.missing == 0
    assert "Bantel Qxvor/bad.png" in "\n".join(found.lines())
    assert {file: file.read_bytes() for file in private.root.rglob("*") if file.is_file()} == files


def test_rejects_whose_files_went_are_counted(private, tmp_path):
    (tmp_path / "lab" / "t.csv").write_text(
        "study,patient,image,report\ns-good,p1,images/good.png,none\n"
    )
    found = locate(workspace=private, road=ROAD, dataset="lab")
    assert (found.rows, found.missing) == ([], 2)


def test_without_key_or_source_nothing_is_located_and_no_key_is_made(private, tmp_path):
    key = private.root / "identity.key"
    secret = key.read_text()
    key.unlink()
    with pytest.raises(DataError, match=r"no identity key .*; restore it from a backup"):
        locate(workspace=private, road=ROAD, dataset="lab")
    assert not key.exists()
    key.write_text(secret)
    key.chmod(0o600)
    (tmp_path / "lab" / "t.csv").unlink()
    with pytest.raises(DataError, match=r"t\.csv"):
        locate(workspace=private, road=ROAD, dataset="lab")


def test_names_that_another_key_hashed_are_not_called_gone(private):
    key = private.root / "identity.key"
    secret = key.read_text()
    key.write_text("0" * 64)
    with pytest.raises(DataError, match=r"not the one under which .* 'lab' were hashed; restore"):
        locate(workspace=private, road=ROAD, dataset="lab")
    assert retry(workspace=private, road=ROAD, dataset="lab").ingested.studies.quarantined == 1
    assert len(locate(workspace=private, road=ROAD, dataset="lab").rows) == 2
    key.write_text(secret)
    with pytest.raises(DataError, match="not the one under which"):
        locate(workspace=private, road=ROAD, dataset="lab")


def test_a_server_that_does_not_answer_names_nothing(private):
    output = private.dataset("lab")
    private.point_dataset("lab", output, {"source": "dicomweb", "url": "http://127.0.0.1:9/x"})
    road = RoadConfig.model_validate({"dicomweb": {"tries": 1}})
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9 cannot be reached"):
        locate(workspace=private, road=road, dataset="lab")
