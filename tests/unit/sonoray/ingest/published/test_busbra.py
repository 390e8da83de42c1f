import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sonoray.errors import DataError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.published.busbra import HISTOLOGY, BusBraSource
from sonoray.ingest.run import ingest
from sonoray.study.contract import Task, iter_studies
from sonoray.workspace import Workspace

COLUMNS = [
    "ID",
    "Case",
    "Histology",
    "Pathology",
    "BIRADS",
    "Device",
    "Width",
    "Height",
    "Side",
    "BBOX",
]
MALIGNANT = ["invasive ductal carcinoma", "malignant", "4", "GE Logiq 7 @10-14MHz"]
BENIGN = ["cyst", "benign", "2", "U-Systems @10-14MHz"]


def row(name, case, facts, side):
    return [name, case, *facts, "40", "48", side, "[1, 2, 3, 4]"]


ROWS = (
    row("bus_0001-l", "1", MALIGNANT, "left"),
    row("bus_0001-r", "1", MALIGNANT, "right"),
    row("bus_0002-s", "2", BENIGN, "single"),
)


def write_table(folder, rows, columns=COLUMNS):
    with (folder / "bus_data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def write_image(path, seed):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path):
    path.parent.mkdir(exist_ok=True)
    mask = np.zeros((48, 40), bool)
    mask[10:20, 10:30] = True
    Image.fromarray(mask).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "busbra"
    root.mkdir()
    write_table(root, ROWS)
    for seed, fields in enumerate(ROWS):
        write_image(root / "images" / f"{fields[0]}.png", seed)
        write_mask(root / "masks" / f"{fields[0]}.png")
    return root


def read(folder):
    return list(BusBraSource(folder).iter_studies())


def summarise(folder, tmp_path):
    workspace = Workspace.open(tmp_path / "ws")
    return ingest(BusBraSource(folder), workspace, IngestConfig()).manifest["summary"]


def test_the_views_of_a_case_are_one_study(folder):
    source = BusBraSource(folder)
    studies = list(source.iter_studies())
    assert len(source) == len(studies) == 2
    assert [study.patient_ref for study in studies] == ["1", "2"]
    assert [[image.ref for image in study.images] for study in studies] == [
        ["images/bus_0001-l.png", "images/bus_0001-r.png"],
        ["images/bus_0002-s.png"],
    ]
    assert all(image.mask for study in studies for image in study.images)
    assert studies[0].labels == {
        "pathology": "malignant",
        "birads": "4",
        "histology": "invasive ductal carcinoma",
        "side": "left+right",
        "device": "GE Logiq 7 @10-14MHz",
    }


def test_the_questions_come_from_the_columns(folder):
    malignant, benign = read(folder)
    answers = {turn.topic: turn.answer for turn in malignant.turns}
    assert answers["pathology"] == "恶性"
    assert answers["birads"] == "BI-RADS 4类"
    assert answers["histology"] == "浸润性导管癌"
    for fact in ("双幅", "GE Logiq 7", "BI-RADS 4类", "浸润性导管癌", "恶性"):
        assert fact in answers["report"]
    single = {turn.topic: turn.answer for turn in benign.turns}
    assert single["pathology"] == "良性"
    assert "单幅" in single["report"]
    for study in (malignant, benign):
        tasks = {turn.topic: turn.task for turn in study.turns}
        assert tasks == {
            "pathology": Task.CLOSED,
            "birads": Task.CLOSED,
            "histology": Task.OPEN,
            "report": Task.REPORT,
        }
        for turn in study.turns:
            assert turn.answer in turn.options if turn.task is Task.CLOSED else not turn.options


def test_no_text_takes_the_half_of_a_screen_for_a_side_of_the_body(folder):
    for study in read(folder):
        texts = [turn.question + turn.answer for turn in study.turns]
        texts += [image.labels["caption"] for image in study.images]
        for text in texts:
            assert not any(word in text for word in ("左侧", "右侧", "左乳", "右乳"))
    left, right = read(folder)[0].images
    assert "左幅" in left.labels["caption"]
    assert right.labels["side"] == "right"


def test_the_published_layout_is_read_too(folder):
    (folder / "images").rename(folder / "Images")
    (folder / "masks").rename(folder / "Masks")
    for mask in (folder / "Masks").iterdir():
        mask.rename(mask.with_name(mask.name.replace("bus_", "mask_")))
    images = [image for study in read(folder) for image in study.images]
    # named, and not read before ingest has seen their size
    assert [image.data.is_file() and image.mask.is_file() for image in images] == [True] * 3


def test_a_missing_mask_is_no_mistake(folder, tmp_path):
    (folder / "masks" / "bus_0002-s.png").unlink()
    summary = summarise(folder, tmp_path)
    assert summary["masks"] == 2
    assert summary["images"]["kept"] == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "bus_data.csv").unlink(), "no BUS-BRA table"),
        (lambda folder: write_table(folder, []), "has no rows"),
        (lambda folder: write_table(folder, [["a"]], ["ID"]), "lacks the columns Case, Histology"),
        (lambda folder: (folder / "bus_data.csv").write_text(""), "is empty"),
        (lambda folder: (folder / "bus_data.csv").write_bytes(b"\xff\xfe\x00"), "not readable"),
        (lambda folder: (folder / "bus_data.csv").write_text('ID,"Case\n'), "not readable"),
    ],
    ids=["gone", "empty", "columns", "blank", "binary", "quote"],
)
def test_a_table_that_cannot_be_read_is_one_clear_error(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        BusBraSource(folder)
    assert "bus_data.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_a_file_is_one_clear_error(folder):
    with pytest.raises(DataError, match="no BUS-BRA table"):
        BusBraSource(folder / "bus_data.csv")


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        ([row("bus_0009-s", "9", BENIGN, "single")], {"missing_file": 1, "empty_study": 1}),
        (
            [row("../../etc/passwd", "9", BENIGN, "single")],
            {"missing_file": 1, "empty_study": 1},
        ),
        (
            [row("bus_0009-s", "9", ["unheard of", *BENIGN[1:]], "single")],
            {"unknown_value": 1, "missing_file": 1},
        ),
        (
            [row("bus_0009-s", "9", ["cyst", "unclear", "2", "D"], "single")],
            {"unknown_value": 1, "missing_file": 1},
        ),
        (
            [row("bus_0009-s", "9", ["cyst", "benign", "6", "D"], "single")],
            {"unknown_value": 1, "missing_file": 1},
        ),
        ([["bus_0009-s", "9", "cyst"]], {"malformed_row": 2}),
        ([row("bus_0009-s", "", BENIGN, "single")], {"malformed_row": 2}),
        ([[*row("bus_0009-s", "9", BENIGN, "single"), "more"]], {"malformed_row": 2}),
    ],
    ids=["file", "path", "histology", "pathology", "birads", "short", "no-case", "long"],
)
def test_a_bad_row_is_quarantined_and_the_others_go_on(folder, tmp_path, rows, reasons):
    write_table(folder, [*ROWS, *rows])
    summary = summarise(folder, tmp_path)
    assert summary["reasons"] == reasons
    assert summary["studies"] == {"seen": 3, "kept": 2, "duplicate": 0, "quarantined": 1}
    assert summary["images"] == {"seen": 4, "kept": 3, "duplicate": 0, "quarantined": 1}


def test_a_malformed_row_answers_for_its_image(folder, tmp_path):
    write_table(folder, [*ROWS[:2], ROWS[2][:4]])
    summary = summarise(folder, tmp_path)
    assert summary["reasons"] == {"malformed_row": 2}
    assert summary["images"]["seen"] == 3


@pytest.mark.parametrize(
    ("column", "value"),
    [("Pathology", "benign"), ("Histology", "cyst"), ("Device", "other")],
)
def test_a_case_that_contradicts_itself_is_quarantined_whole(folder, tmp_path, column, value):
    other = list(ROWS[1])
    other[COLUMNS.index(column)] = value
    write_table(folder, [ROWS[0], other, ROWS[2]])
    summary = summarise(folder, tmp_path)
    assert summary["reasons"] == {"conflicting_rows": 1, "study_rejected": 2}
    assert summary["studies"]["kept"] == 1


def test_the_most_suspicious_view_decides_and_each_view_keeps_its_own(folder):
    """As of case 856 of the published table."""
    other = list(ROWS[0])
    other[COLUMNS.index("BIRADS")] = "5"
    write_table(folder, [other, ROWS[1], ROWS[2]])
    split, whole = read(folder)
    assert (split.labels["birads"], split.labels["birads_views"]) == ("5", "5+4")
    assert [image.labels["birads"] for image in split.images] == ["5", "4"]
    assert ["5类" in image.labels["caption"] for image in split.images] == [True, False]
    assert {turn.topic: turn.answer for turn in split.turns}["birads"] == "BI-RADS 5类"
    assert "birads_views" not in whole.labels
    assert "birads" not in whole.images[0].labels


@pytest.mark.parametrize("histology", ["galactocele", "lobular atrophy", "duct ectasia"])
def test_the_rare_histologies_of_the_whole_set_are_known(folder, histology):
    facts = [histology, "benign", "2", "GE Logiq 7 @10-14MHz"]
    write_table(folder, [row("bus_0001-l", "1", facts, "single")])
    study = read(folder)[0]
    assert study.problem == ""
    assert HISTOLOGY[histology] in study.turns[-1].answer


def test_an_image_without_a_row_is_not_dropped_silently(folder, tmp_path):
    write_image(folder / "images" / "bus_0777-s.png", 7)
    summary = summarise(folder, tmp_path)
    assert summary["reasons"] == {"no_row": 2}
    assert summary["images"]["seen"] == 4
    assert len(BusBraSource(folder)) == 3


def test_the_digest_follows_every_file(folder):
    digests = {BusBraSource(folder).input_digest()}
    assert BusBraSource(folder).input_digest() in digests
    write_image(folder / "images" / "bus_0001-l.png", 99)
    digests.add(BusBraSource(folder).input_digest())
    (folder / "masks" / "bus_0001-l.png").unlink()
    digests.add(BusBraSource(folder).input_digest())
    write_table(folder, ROWS[:2])
    digests.add(BusBraSource(folder).input_digest())
    assert len(digests) == 4


@pytest.fixture(scope="module")
def real_folder(shared_data):
    return shared_data("busbra")


def test_the_real_table_is_understood_in_full(real_folder):
    studies = read(real_folder)
    assert len(studies) == len(BusBraSource(real_folder)) == 664
    assert sum(len(study.images) for study in studies) == 1174
    assert [study.ref for study in studies if study.problem] == []
    rare = {"duct ectasia", "galactocele", "lobular atrophy"}  # of the whole set, and not here
    assert {study.labels["histology"] for study in studies} == set(HISTOLOGY) - rare
    sides = Counter(study.labels["side"] for study in studies)
    assert sides == {"left+right": 510, "single": 154}
    pathology = Counter(study.turns[0].answer for study in studies)
    assert pathology == {"良性": 455, "恶性": 209}


def test_real_images_pass_through_ingest(real_folder, tmp_path):
    """The first 30 cases, so that the suite stays fast; the whole set takes ten seconds."""
    small = tmp_path / "busbra"
    small.mkdir()
    for name in ("images", "masks"):
        (small / name).mkdir()
    with (real_folder / "bus_data.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    cases = list(dict.fromkeys(fields[1] for fields in rows[1:]))[:30]
    chosen = [fields for fields in rows[1:] if fields[1] in cases]
    write_table(small, chosen, rows[0])
    for fields in chosen:
        for name, suffix in (("images", "jpg"), ("masks", "png")):
            file = f"{name}/{fields[0]}.{suffix}"
            (small / file).symlink_to(real_folder / file)
    workspace = Workspace.open(tmp_path / "ws")
    output = ingest(BusBraSource(small), workspace, IngestConfig())
    summary = output.manifest["summary"]
    assert summary["studies"]["kept"] == 30
    assert summary["images"]["kept"] == summary["masks"] == len(chosen)
    assert summary["near_duplicates"] == {"groups": 0, "patients": 0}
    for study in iter_studies(output.path):
        for image in study.images:
            assert max(image.width, image.height) == 224
