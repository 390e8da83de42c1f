"""What becomes of private studies on their way through ingest."""

import dataclasses
import datetime
import json
import re
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.sequence import Sequence

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.ingest.sources.dicom_archive import DicomSource
from sonoray.ingest.sources.llava import LlavaSource
from sonoray.ingest.sources.table import TableSource
from sonoray.privacy.burned_in_text import FILL
from sonoray.privacy.deidentify import (
    DeidentifyConfig,
    Masked,
    clean_picture,
    clean_problem,
    clean_study,
)
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import STUDY_DATE_LABEL, TEXT_MASKED_LABEL, Task, Turn, iter_studies
from sonoray.study.identifiers import Identifiers
from sonoray.study.image_table import read_images
from sonoray.study.raw import RawImage, RawStudy
from sonoray.workspace import Workspace

WORDS = "QXVOR 48210377"
KEY = IdentityKey(b"k" * 32)


@dataclass
class ListSource:
    """A private source over studies in memory."""

    studies: list
    name: str = "list"
    public: bool = False

    def iter_studies(self):
        yield from self.studies

    def config(self):
        return {}

    def input_digest(self):
        return "list"


def tissue(seed):
    """A smooth grey picture (160, 240), different for each seed."""
    y, x = np.mgrid[:160, :240]
    return np.rint(90 + 40 * np.sin(x / (17 + seed)) + 30 * np.cos(y / 13)).astype(np.uint8)


def written(picture, words=WORDS):
    """The picture with a line of text, and the text's ink."""
    image, ink = Image.fromarray(picture), Image.new("L", picture.shape[::-1])
    for each in (image, ink):
        ImageDraw.Draw(each).text((40, 60), words, font=ImageFont.load_default(16), fill=255)
    return np.asarray(image), np.asarray(ink) >= 128


def report(text):
    return Turn(question="请写出报告。", answer=text, task=Task.REPORT, topic="report")


def two_images(*, mask=None):
    """A study with one picture that has text and one that has none."""
    images = (
        RawImage(ref="a.png", data=written(tissue(0))[0], mask=mask),
        RawImage(ref="b.png", data=tissue(1)),
    )
    return RawStudy(ref="s1", patient_ref="p1", images=images, turns=(report("未见异常。"),))


def pictures(output):
    """The stored pixels of a dataset, in the order of its one study."""
    (study,) = iter_studies(output.path)
    stored = read_images(output.path, [image.image_id for image in study.images])
    return study, [stored[image.image_id][0] for image in study.images]


def run(tmp_path, source, **config):
    return ingest(source, Workspace.open(tmp_path / "ws"), IngestConfig.model_validate(config))


class TestPictures:
    def test_mask_covers_the_text_and_nothing_else(self, tmp_path):
        mask = np.zeros((160, 240), np.uint8)
        mask[10:30, 10:30] = 255
        study, (first, second) = pictures(run(tmp_path, ListSource([two_images(mask=mask)])))
        before, ink = written(tissue(0))
        assert (first[ink] == FILL).all()
        y, x = np.nonzero(ink)
        around = np.zeros(ink.shape, bool)
        around[y.min() - 8 : y.max() + 9, x.min() - 8 : x.max() + 9] = True
        assert np.array_equal(first[~around], before[~around])
        assert np.array_equal(second, tissue(1))
        assert "burned-in text masked in 1 of 2 images: DCM 113101" in study.provenance

    def test_quarantine_rejects_the_picture_alone(self, tmp_path):
        output = run(tmp_path, ListSource([two_images()]), burned_in_text="quarantine")
        study, (only,) = pictures(output)
        assert np.array_equal(only, tissue(1))
        assert output.manifest["summary"]["reasons"] == {"burned_in_text": 1}
        assert "no burned-in text found in 1 images" in study.provenance
        assert "113101" not in study.provenance

    def test_keep_changes_nothing_and_says_so(self, tmp_path):
        study, (first, _) = pictures(
            run(tmp_path, ListSource([two_images()]), burned_in_text="keep")
        )
        assert np.array_equal(first, written(tissue(0))[0])
        assert "pictures not searched for burned-in text" in study.provenance

    def test_a_public_source_stays_as_published(self, tmp_path):
        source = ListSource([two_images()], public=True)
        study, (first, _) = pictures(run(tmp_path, source))
        assert np.array_equal(first, written(tissue(0))[0])
        assert study.provenance == ""

    def test_the_margin_of_the_configuration_counts(self, tmp_path):
        shares = []
        for margin in (0, 1):
            output = run(
                tmp_path / str(margin), ListSource([two_images()]), burned_in_text_margin=margin
            )
            shares.append((pictures(output)[1][0] == FILL).mean())
        assert shares[1] > 1.5 * shares[0]


def scan_on_black():
    """A scan (160, 240) in the middle of a black screen (400, 480)."""
    screen = np.zeros((400, 480), np.uint8)
    screen[140:300, 120:360] = tissue(3)
    return screen


def draw(picture, words, place, size=16):
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text(place, words, font=ImageFont.load_default(size), fill=255)
    return np.asarray(image)


class TestPicturesThatAreNotCut:
    """Where no scan area is known, text says that a scanner's screen is in the picture."""

    def test_the_whole_banner_goes_with_what_the_search_does_not_find(self):
        shown = draw(scan_on_black(), WORDS, (20, 100))
        unseen = draw(shown, "ZWO", (240, 10), size=96)  # higher than what is looked for
        covered, masked = clean_picture(unseen, DeidentifyConfig())
        assert masked is Masked.BANNER
        assert (covered[:120] == FILL).all()
        assert np.array_equal(covered[150:], unseen[150:])

    def test_a_picture_that_was_cut_loses_the_line_alone(self):
        shown = draw(scan_on_black(), WORDS, (20, 100))
        covered, masked = clean_picture(shown, DeidentifyConfig(), is_cut=True)
        assert masked is Masked.LINES
        assert (covered == FILL).mean() < 0.05

    def test_where_no_banner_can_be_told_the_provenance_says_so(self, tmp_path):
        study, _ = pictures(run(tmp_path, ListSource([two_images()])))
        assert "of these, scan area unknown and lines of text alone masked: 1" in study.provenance
        labels = [image.labels.get(TEXT_MASKED_LABEL) for image in study.images]
        assert labels == ["uncut", None]

    def test_the_rows_of_the_headers_own_words_go_from_edge_to_edge(self, tmp_path, make_object):
        shown, ink = written(tissue(0), "Bantel Q")
        for name, known in (("a", "Bantel^Qxvor"), ("b", "Zwo^Qxvor")):
            (tmp_path / name).mkdir()
            data = make_object(shown[None], PatientName=known)
            (tmp_path / name / "1.dcm").write_bytes(data)
            output = run(tmp_path / name, DicomSource(tmp_path / name))
            (study,) = iter_studies(output.path, complete=False)
            image_id = study.images[0].image_id
            rows = read_images(output.path, [image_id])[image_id][0][ink.any(axis=1)]
            assert (rows == FILL).all() == (name == "a")
            assert ("words of the header read and their rows" in study.provenance) == (name == "a")
            assert "Bantel" not in stored_text(output)


def test_the_quarantine_table_quotes_a_private_source_never_and_a_public_one_always(tmp_path):
    problem = "bad_row: 'Bantel Qxvor' is no number; correct it"
    for public in (False, True):
        study = dataclasses.replace(two_images(), problem=problem)
        good = dataclasses.replace(two_images(), ref="s2", patient_ref="p2")
        name = "public" if public else "private"
        source = ListSource([study, good], public=public, name=name)
        output = run(tmp_path, source)
        rows = pq.read_table(output.path / "quarantine.parquet").to_pylist()
        (message,) = [row["message"] for row in rows if row["reason"] == "bad_row"]
        assert ("Bantel" in message) is public
        assert message.strip().endswith("is no number; correct it")


def dated(ref, patient, day):
    known = Identifiers(names=("Qian^San=钱^三丰",))
    text = f"钱三丰，{day[:4]}-{day[4:6]}-{day[6:]}复查，未见异常。"
    return RawStudy(
        ref=ref, patient_ref=patient, images=(), turns=(report(text),), identifiers=known,
        study_date=day, labels={"site": "肝脏"},
    )  # fmt: skip


class TestDates:
    def test_they_are_removed_unless_asked_for(self):
        cleaned = clean_study(dated("1", "p", "20240305"), KEY, DeidentifyConfig())
        assert cleaned.raw.turns[0].answer == "[姓名]，[日期]复查，未见异常。"
        assert dict(cleaned.raw.labels) == {"site": "肝脏"}
        assert not cleaned.is_shifted

    def test_all_of_a_patient_move_by_one_number_of_days(self):
        config = DeidentifyConfig(dates="shifted")
        moved = {}
        for patient in ("p", "q"):
            for day in ("20240305", "20240319"):
                raw = clean_study(dated(day, patient, day), KEY, config).raw
                moved[patient, day] = datetime.date.fromisoformat(raw.labels[STUDY_DATE_LABEL])
                assert str(moved[patient, day]) in raw.turns[0].answer
        apart = moved["p", "20240319"] - moved["p", "20240305"]
        assert apart == datetime.timedelta(days=14)
        assert moved["p", "20240305"] < datetime.date(2024, 3, 5)
        assert moved["p", "20240305"] != moved["q", "20240305"]

    def test_what_was_done_stands_in_the_provenance(self, tmp_path):
        source = ListSource([dated("1", "p", "20240305")])
        (plain,) = iter_studies(run(tmp_path / "a", source).path, complete=False)
        assert "replaced in texts: date 1, name 1: DCM 113105" in plain.provenance
        assert "113107" not in plain.provenance
        (moved,) = iter_studies(run(tmp_path / "b", source, dates="shifted").path, complete=False)
        assert "DCM 113107" in moved.provenance
        (kept,) = iter_studies(run(tmp_path / "c", source, texts="keep").path, complete=False)
        assert "texts as supplied, not cleaned" in kept.provenance
        assert kept.turns[0].answer == "钱三丰，2024-03-05复查，未见异常。"


def test_an_archive_is_cleaned_of_private_tags_and_of_what_its_headers_name(tmp_path, make_object):
    folder = tmp_path / "archive"
    folder.mkdir()
    data = written(tissue(0))[0][None]
    (folder / "1.dcm").write_bytes(
        make_object(
            data,
            PatientName="Bantel^Qxvor",
            PatientID="PX-0042",
            AccessionNumber="ACC-77",
            StudyDate="20240305",
            InstitutionName="Nordklinik Zwo",
        )
    )
    import pydicom

    stored = pydicom.dcmread(folder / "1.dcm")
    stored.private_block(0x0019, "ACME PRIVATE", create=True).add_new(1, "LO", "Bantel hidden")
    stored.OtherPatientIDsSequence = Sequence([])
    stored.save_as(folder / "1.dcm")
    (tmp_path / "r.csv").write_text(
        "accession,report\nACC-77,Qxvor Bantel (PX-0042) seen at Nordklinik Zwo: no lesion.\n"
    )
    source = DicomSource(folder, reports=tmp_path / "r.csv", name="kidney")
    output = run(tmp_path, source, dates="shifted")
    (study,) = iter_studies(output.path)
    assert study.turns[0].answer == "[姓名] ([编号]) seen at [机构]: no lesion."
    for code in ("113100", "113101", "113105", "113107", "113108"):
        assert f"DCM {code}" in study.provenance
    assert datetime.date.fromisoformat(study.labels[STUDY_DATE_LABEL]).year < 2025
    assert study.labels[STUDY_DATE_LABEL] != "2024-03-05"
    tables = [pq.read_table(file).to_pylist() for file in output.path.rglob("*.parquet")]
    shown = str(tables) + (output.path / "manifest.json").read_text()
    for secret in ("Bantel", "Qxvor", "hidden", "ACC-77", "PX-0042", "Nordklinik", "20240305"):
        assert secret not in shown


def stored_text(output):
    """All that ingest wrote of a dataset but pixels, and digests, which may hold any digits."""
    tables = [pq.read_table(file) for file in sorted(output.path.rglob("*.parquet"))]
    rows = [table.drop_columns(["pixels"] if "pixels" in table.column_names else []).to_pylist()
            for table in tables]  # fmt: skip
    text = str(rows) + (output.path / "manifest.json").read_text()
    return re.sub(r"\b[0-9a-f]{32,}\b", "", text)


def test_labels_of_an_archive_are_cleaned_of_what_its_headers_name(tmp_path, make_object):
    (tmp_path / "1.dcm").write_bytes(
        make_object(
            tissue(0)[None],
            PatientName="Bantel^Qxvor",
            PerformingPhysicianName="Zwo",
            ManufacturerModelName="E9 of Zwo for Qxvor",
        )
    )
    output = run(tmp_path, DicomSource(tmp_path))
    (study,) = iter_studies(output.path, complete=False)
    assert study.labels["model"] == "E9 of [姓名] for [姓名]"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_leaves_neither_its_name_nor_a_name_in_a_topic(tmp_path, suffix):
    names = ("study", "patient", "question", "answer", "topic")
    good = ("s1", "Qxvor", "结节？", "有", "Qxvor 2024-03-05")
    bad = ("s2", "Zwo", "结节？", "", "")
    table = tmp_path / f"Bantel{suffix}"
    lines = [",".join(row) for row in (names, good, bad)]
    if suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in (good, bad)]
    table.write_text("\n".join(lines))
    output = run(tmp_path, TableSource(table))
    (study,) = iter_studies(output.path, complete=False)
    assert study.turns[0].topic == "[姓名] [日期]"
    first = 1 if suffix == ".jsonl" else 2
    assert study.provenance.startswith(f"table, line {first};")
    shown = stored_text(output)
    assert f"line {first + 1}: answer is empty" in shown
    for secret in ("Bantel", "Qxvor", "Zwo", "2024"):
        assert secret not in shown


@pytest.mark.parametrize("name", ["Bantel.json", "Bantel.jsonl"])
def test_conversations_are_cleaned_of_the_items_own_name(tmp_path, name):
    talk = [{"from": "human", "value": "问"}, {"from": "gpt", "value": "Qxvor has a nodule."}]
    items = [{"id": "Qxvor", "conversations": talk}, {"id": "Zwo"}]
    text = json.dumps(items) if name.endswith("json") else "\n".join(map(json.dumps, items))
    (tmp_path / name).write_text(text)
    output = run(tmp_path, LlavaSource(tmp_path / name))
    (study,) = iter_studies(output.path, complete=False)
    assert study.turns[0].answer == "[姓名] has a nodule."
    place = "item[0]" if name.endswith("json") else "item:1"
    assert study.provenance.startswith(f"llava, {place};")
    for secret in ("Bantel", "Qxvor", "Zwo"):
        assert secret not in stored_text(output)


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        ("unreadable: cannot open '/data/Bantel Qxvor.dcm'", "unreadable: cannot open […]"),
        ("bad_row: \"Bantel\", 'x'", "bad_row: […], […]"),
        ("bad_row: the file's 'Bantel' isn't there", "bad_row: the file's […] isn't there"),
        (r"bad_row: 'Ban\'tel \"Q' is no number", "bad_row: […] is no number"),
        ("bad_row: 行'王某某'", "bad_row: 行[…]"),
        ("bad_row: 'Bantel Qxv", "bad_row: […]"),
        ("too_small: 20 x 20 pixels", "too_small: 20 x 20 pixels"),
    ],
)
def test_a_problem_quotes_no_names(problem, shown):
    assert clean_problem(problem) == shown
