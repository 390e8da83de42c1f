"""Names, numbers and dates planted everywhere in an archive; none may be found after ingest."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from sonoray.privacy.burned_in_text import FILL
from sonoray.study.contract import iter_studies
from sonoray.study.image_table import read_images
from sonoray.workspace import Workspace
from sonoray_jobs.cli.main import main

CANARIES = (
    "Qxvorbantel", "Zwirnpolt", "钱三丰", "PX48210377", "ACC7731906", "13912345678",
    "20310517", "2031-05-17", "2031年5月17日", "Nordklinik Zwoelf", "云梦县人民医院",
    "Krumbwurz", "1.2.840.99731.4", "qxvor@klinik.example",
)  # fmt: skip
BURNED = "QXVORBANTEL 48210377"
REPORT = (
    "患者姓名：钱三丰，2031年5月17日（2031-05-17）于云梦县人民医院检查，电话13912345678。"
    "Zwirnpolt Qxvorbantel, PX48210377, qxvor@klinik.example. 甲状腺未见异常。"
)


def tissue(seed):
    """A smooth grey picture (160, 280), different for each seed."""
    y, x = np.mgrid[:160, :280]
    return np.rint(90 + 40 * np.sin(x / (17 + seed)) + 30 * np.cos(y / 13)).astype(np.uint8)


def ink():
    """Where `BURNED` stands in the pictures."""
    image = Image.new("L", (280, 160))
    ImageDraw.Draw(image).text((40, 60), BURNED, font=ImageFont.load_default(16), fill=255)
    return np.asarray(image) >= 128


def write_object(path, seed, **attributes):
    """One object with a canary in every place that identifies."""
    pixels = tissue(seed)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text((40, 60), BURNED, font=ImageFont.load_default(16), fill=255)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    data.SOPInstanceUID = f"1.2.840.99731.4.{seed}"
    data.StudyInstanceUID = "1.2.840.99731.4.0"
    data.PatientID, data.AccessionNumber = "PX48210377", "ACC7731906"
    data.PatientName = "Qxvorbantel^Zwirnpolt=钱^三丰"
    data.PatientBirthDate = data.StudyDate = data.ContentDate = "20310517"
    data.PatientTelephoneNumbers = "13912345678"
    data.InstitutionName = "Nordklinik Zwoelf"
    data.ReferringPhysicianName = data.OperatorsName = "Krumbwurz^Zwirnpolt"
    data.StudyDescription = "Thyroid Qxvorbantel"
    data.ImageComments = "Krumbwurz 20310517"
    data.Modality, data.BodyPartExamined = "US", "THYROID"
    data.ManufacturerModelName = "Krumbwurz 9"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = np.asarray(image).tobytes()
    data.private_block(0x0019, "ACME", create=True).add_new(1, "LO", "Krumbwurz PX48210377")
    for name, value in attributes.items():
        setattr(data, name, value)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


@pytest.fixture
def archive(tmp_path):
    """One good study, and rejects of several kinds, under names that identify."""
    folder = tmp_path / "archive"
    deep = folder / "Qxvorbantel 2031-05-17"
    deep.mkdir(parents=True)
    write_object(deep / "Zwirnpolt_20310517.dcm", 1)
    write_object(deep / "钱三丰.dcm", 2)
    for seed, patient in ((3, "PX48210377"), (4, "Krumbwurz")):
        write_object(
            deep / f"Krumbwurz {seed}.dcm", seed, StudyInstanceUID="1.2.840.99731.4.8",
            AccessionNumber="ACC7731907",
            PatientID=patient,
        )  # fmt: skip
    write_object(deep / "nobody Zwirnpolt.dcm", 5, StudyInstanceUID="", PatientID="")
    write_object(deep / "PX48210377 long.dcm", 6, Rows=9_000)
    write_object(deep / "PX48210377 bits.dcm", 7, BitsAllocated=13)
    write_object(deep / "PX48210377 photo.dcm", 8, PhotometricInterpretation="KRUMBWURZ")
    whole = (deep / "Zwirnpolt_20310517.dcm").read_bytes()
    (deep / "Zwirnpolt's cut.dcm").write_bytes(whole[:700])
    (deep / "Zwirnpolt torn.dcm").write_bytes(whole[:-4_000])
    (deep / "Qxvorbantel.txt").write_text("Krumbwurz 13912345678")
    (deep / "PX48210377 lost.dcm").symlink_to(folder / "Krumbwurz")
    with (tmp_path / "reports.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["accession", "report", "note"])
        rows.writerow(["ACC7731906", REPORT, "Krumbwurz"])
        rows.writerow(["ACC7731906x", "Krumbwurz of no study", ""])
        rows.writerow(["", "Qxvorbantel without a number", ""])
    (tmp_path / "torn.csv").write_text('accession,report\nACC7731906,"Krumbwurz\nQxvorbantel')
    return folder


class Terminal:
    """Runs commands on one workspace and keeps what they print."""

    def __init__(self, workspace, capfd):
        self.workspace = workspace
        self.capfd = capfd
        self.printed = ""

    def run(self, *arguments):
        """The exit code; whatever was printed, also by processes below, is kept."""
        with pytest.raises(SystemExit) as caught:
            main([*map(str, arguments), "--workspace", str(self.workspace)])
        out, err = self.capfd.readouterr()
        self.printed += out + err
        return caught.value.code or 0


@pytest.fixture
def terminal(tmp_path, capfd):
    return Terminal(tmp_path / "ws", capfd)


def find_canaries(content):
    """Which canaries stand in bytes, in any encoding of theirs."""
    lower = content.lower()
    return {
        canary
        for canary in CANARIES
        for encoding in ("utf-8", "utf-16-le", "gb18030", "unicode_escape")
        if canary.encode(encoding).lower() in lower
    }


def find_leaks(terminal):
    """By place: the canaries there, in raw bytes, decoded tables, file names and printed lines."""
    places = {"printed": terminal.printed.encode()}
    for file in terminal.workspace.rglob("*"):
        places[f"name of {file}"] = str(file.relative_to(terminal.workspace)).encode()
        if file.is_file():
            places[str(file)] = file.read_bytes()
        if file.suffix == ".parquet":
            places[f"rows of {file}"] = str(pq.read_table(file).to_pylist()).encode()
    return {place: found for place, content in places.items() if (found := find_canaries(content))}


def stored_pictures(workspace):
    """The pixels of the one study that was kept."""
    path = Workspace.open(workspace).dataset("kidney").path
    (study,) = iter_studies(path)
    stored = read_images(path, [image.image_id for image in study.images])
    return study, [pixels for pixels, _ in stored.values()]


def test_nothing_that_identifies_comes_through(archive, terminal, tmp_path):
    reports = tmp_path / "reports.csv"
    ingest = ("ingest", "dicom", archive, "--name", "kidney", "--reports")
    assert terminal.run(*ingest, tmp_path / "torn.csv") == 2
    assert terminal.run(*ingest, reports) == 0
    assert terminal.run("audit", "kidney", "--json") == 0
    assert terminal.run("audit", "kidney", "--html", terminal.workspace / "pages") == 0
    assert terminal.run("quarantine", "list", "kidney") == 0
    assert terminal.run("quarantine", "list", "kidney", "--json") == 0
    assert terminal.run("quarantine", "retry", "kidney") == 0
    assert "quarantine" in terminal.printed
    assert find_leaks(terminal) == {}

    study, pictures = stored_pictures(terminal.workspace)
    assert study.turns[0].answer.endswith("甲状腺未见异常。")
    assert len(pictures) == 2
    for picture in pictures:
        assert (picture[ink()] == FILL).all()
    pages = [Image.open(file) for file in (terminal.workspace / "pages").rglob("*.png")]
    assert pages

    # the names of the rejects are for the operator's eyes, and stay on the terminal
    before = terminal.printed
    assert terminal.run("quarantine", "locate", "kidney") == 0
    assert "Zwirnpolt torn.dcm" in terminal.printed.removeprefix(before)
    terminal.printed = before
    assert find_leaks(terminal) == {}


def test_the_search_finds_what_is_let_through(archive, terminal, tmp_path):
    reports = tmp_path / "reports.csv"
    kept = ("--set", "ingest.texts=keep", "--set", "ingest.burned_in_text=keep")
    ingest = ("ingest", "dicom", archive, "--name", "kidney", "--reports", reports)
    assert terminal.run(*ingest, *kept) == 0
    found = set().union(*find_leaks(terminal).values())
    assert found >= {
        "Qxvorbantel", "Zwirnpolt", "钱三丰", "PX48210377", "13912345678", "2031-05-17",
        "2031年5月17日", "云梦县人民医院", "qxvor@klinik.example",
    }  # fmt: skip
    _, pictures = stored_pictures(terminal.workspace)
    assert all(picture[ink()].mean() > 200 for picture in pictures)
