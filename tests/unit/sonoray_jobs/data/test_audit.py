"""The audit of datasets that went through ingest, clean and with planted faults."""

import base64
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sonoray.errors import DataError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.study.contract import Task, Turn, iter_studies, write_studies
from sonoray.study.raw import RawImage, RawStudy
from sonoray.workspace import Workspace
from sonoray_jobs.cli.main import main
from sonoray_jobs.data.audit import run
from sonoray_jobs.data.ingest import run as ingest_phantom
from sonoray_jobs.road.config import RoadConfig

SECRET = "患者王某的左乳"


@dataclass
class ListSource:
    """A source over studies in memory."""

    studies: list
    name: str = "list"
    public: bool = True

    def iter_studies(self):
        yield from self.studies

    def config(self):
        return {}

    def input_digest(self):
        return "".join(each.ref for each in self.studies)


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))


def raw(number, pathology="benign", *, answer=None, seed=None, **changes):
    words = {"benign": "良性", "malignant": "恶性"}
    mask = np.zeros((48, 40), np.uint8)
    mask[10:30, 10:30] = 255
    seed = number if seed is None else seed
    study = RawStudy(
        ref=f"s{number}{answer}", patient_ref=f"p{number}",
        images=(RawImage(ref=f"{number}.png", data=picture(seed), mask=mask),),
        turns=(
            Turn(
                question="良性还是恶性？", answer=answer or words[pathology], task=Task.CLOSED,
                options=("良性", "恶性"), topic="pathology",
            ),
            Turn(
                question="报告？", answer=f"{SECRET}，病灶{number}。", task=Task.REPORT,
                topic="report",
            ),
        ),
        labels={"pathology": pathology},
    )  # fmt: skip
    return replace(study, **changes)


CLEAN = [raw(n, ("benign", "malignant")[n % 2]) for n in range(24)]


def audited(tmp_path, studies=CLEAN, *, splits=None, **options):
    workspace = Workspace.open(tmp_path / "ws")
    output = ingest(ListSource(list(studies)), workspace, IngestConfig())
    if splits is not None:
        kept = [
            replace(study, split=splits(study))
            for study in iter_studies(output.path, complete=False)
        ]
        write_studies(output.path, kept)
    return run(workspace=workspace, dataset="list", **options)


def messages(result, kind):
    return [each["message"] for each in result.values["findings"] if each["kind"] == kind]


def test_a_clean_dataset_has_no_serious_finding(tmp_path):
    result = audited(tmp_path, strict=True)
    assert result.exit_code == 0
    assert not [each for each in result.values["findings"] if each["serious"]]
    assert result.values["accounting"]["studies"] == {
        "seen": 24, "kept": 24, "duplicate": 0, "quarantined": 0,
    }  # fmt: skip
    assert sum(each["images"] for each in result.values["splits"].values()) == 24
    assert result.values["masks"]["images"] == 24
    assert result.values["masks"]["median_share"] == pytest.approx(400 / 1920)
    report = "\n".join(result.lines())
    assert "studies: 24 seen = 24 kept + 0 duplicate + 0 quarantined" in report
    assert "no patient, image or near duplicate is in two splits" in report
    assert json.loads(json.dumps(result.to_json())) == result.to_json()


def test_a_second_time_nothing_is_done_and_a_changed_table_is_seen(tmp_path):
    assert not audited(tmp_path).reused
    result = audited(tmp_path)
    assert result.reused
    changed = audited(tmp_path, splits=lambda study: "train")
    assert not changed.reused
    assert changed.values["integrity"]["changed_files"] == ["studies/part-00000.parquet"]
    assert messages(changed, "labels") == ["split validation is empty", "split test is empty"]


def test_planted_leakage_is_listed_with_its_studies_and_fails_when_strict(tmp_path):
    """One patient with two studies, and one picture of two patients, forced apart by hand."""
    twice = raw(90, patient_ref="p0")
    copy = raw(91, seed=1)
    planted = [*CLEAN, twice, copy]

    def apart(study):
        return "test" if study.turns[1].answer.endswith(("90。", "91。")) else "train"

    result = audited(tmp_path, planted, splits=apart, strict=True)
    assert result.values["leakage"]["counts"] == {"patient": 1, "image": 1, "near duplicate": 0}
    assert result.exit_code == 1
    assert replace(result, strict=False).exit_code == 0
    ids = {
        study.turns[1].answer: study.study_id
        for study in iter_studies(Workspace.open(tmp_path / "ws").dataset("list").path)
    }
    wanted = [
        [ids[f"{SECRET}，病灶{one}。"], ids[f"{SECRET}，病灶{other}。"]]
        for one, other in ((0, 90), (1, 91))
    ]
    assert [row["studies"] for row in result.values["leakage"]["rows"]] == wanted
    for names in ("0.png 90.png", "1.png 91.png"):  # those of a public set
        assert any(line.endswith(f" in train, test: {names}") for line in result.lines())


def test_the_same_pixels_under_two_labels_are_serious(tmp_path):
    result = audited(tmp_path, [*CLEAN, raw(90, "malignant", seed=0)], strict=True)
    assert result.values["conflicts"]["counts"] == {"exact": 2, "near": 0}
    kinds = {row["kind"]: row["values"] for row in result.values["conflicts"]["rows"]}
    assert kinds == {"label": ["benign", "malignant"], "answer": ["良性", "恶性"]}
    assert result.exit_code == 1
    assert messages(result, "duplicates")


def test_planted_contradictions_are_counted(tmp_path):
    planted = [raw(n, "benign", answer="恶性") for n in range(50, 53)]
    result = audited(tmp_path, [*CLEAN, *planted])
    assert messages(result, "contradiction") == [
        "the texts of 3 of 27 studies name another pathology than their label"
    ]
    rows = result.values["contradictions"]["rows"]
    assert [(row["value"], row["terms"], row["place"]) for row in rows] == [
        ("benign", ["恶性"], "answer: pathology")
    ] * 3


def test_texts_are_shown_only_when_asked_for(tmp_path):
    for texts in (False, True):
        result = audited(tmp_path, texts=texts)
        page = (tmp_path / "ws" / "stages").glob("audit-list-*/audit.html")
        shown = [SECRET in path.read_text(encoding="utf-8") for path in page]
        assert any(shown) is texts
        assert (SECRET in json.dumps(result.to_json(), ensure_ascii=False)) is texts
        assert SECRET not in "\n".join(result.lines())


def test_the_page_needs_nothing_else(tmp_path):
    result = audited(tmp_path, [*CLEAN, raw(90, "malignant", seed=0)])
    page = (tmp_path / "ws" / "stages").glob("audit-list-*/audit.html")
    text = next(page).read_text(encoding="utf-8")
    assert not re.findall(r"https?://|<script|<link", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) >= 3  # charts, samples, the shared picture
    assert len(re.findall(r"<img", text)) == len(pictures)
    for each in pictures:
        with Image.open(io.BytesIO(base64.b64decode(each))) as image:
            image.verify()
    assert result.page.endswith("audit.html")


def test_the_sheet_has_a_full_row_of_each_value_and_one_of_studies_without(tmp_path):
    def many(number, pathology):
        images = tuple(
            RawImage(ref=f"{number}-{each}.png", data=picture(100 * number + each))
            for each in range(3)
        )
        labels = {"pathology": pathology} if pathology else {}
        return raw(number, images=images, turns=(), labels=labels)

    kinds = ("benign", "malignant", "") * 3 + ("",)
    studies = [many(number, kind) for number, kind in enumerate(kinds)]
    result = audited(tmp_path, studies, splits=lambda _: "train", html=tmp_path / "out")
    with Image.open(Path(result.page).with_name("list-contact_sheet.png")) as sheet:
        bright = np.asarray(sheet.convert("L"))
    places = [(26 + 180 * row, 4 + 154 * column) for row in range(3) for column in range(8)]
    assert bright.shape == (3 * 180 + 4, 8 * 154 + 4)
    assert all(bright[top : top + 150, left : left + 150].std() > 5 for top, left in places)


def test_a_sample_of_what_was_covered_of_texts_is_drawn_for_a_person_to_check(tmp_path):
    def covered(number, masked):
        labels = {"text_masked": masked} if masked else {}
        image = RawImage(ref=f"{number}.png", data=picture(number), labels=labels)
        return raw(number, images=(image,), turns=())

    plain = audited(tmp_path / "plain", [covered(0, ""), covered(1, "")])
    assert "Burned-in text" not in Path(plain.page).read_text()
    studies = [covered(number, ("banner", "lines", "")[number % 3]) for number in range(15)]
    result = audited(tmp_path, studies, splits=lambda _: "train", html=tmp_path / "out")
    assert "<h2>Burned-in text</h2>" in Path(result.page).read_text()
    with Image.open(Path(result.page).with_name("list-burned_in_text.png")) as sheet:
        bright = np.asarray(sheet.convert("L"))
    assert bright.shape == (3 * 430 + 4, 4 * 404 + 4)
    places = [(26 + 430 * row, 4 + 404 * column) for row in range(3) for column in range(4)]
    assert all(bright[top : top + 400, left : left + 400].std() > 5 for top, left in places)


def test_the_page_goes_where_it_is_asked_for(tmp_path):
    page = audited(tmp_path, html=tmp_path / "out" / "a.html").page
    assert page == str(tmp_path / "out" / "a.html")
    assert audited(tmp_path, html=tmp_path / "folder").page.endswith("folder/list-audit.html")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        "list-audit.html", "list-overview.png", "list-contact_sheet.png",
    }  # fmt: skip
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--html"):
        audited(tmp_path, html=tmp_path / "file")


def test_the_phantom_is_clean(tmp_path):
    road = RoadConfig.model_validate(
        {"phantom": {"num_patients": 16, "image_size": 64, "images": [1, 2]}}
    )
    workspace = Workspace.open(tmp_path)
    ingest_phantom(workspace=workspace, road=road, dataset="phantom")
    values = run(workspace=workspace, dataset="phantom").values
    assert not any(values["leakage"]["counts"].values())
    assert not any(each["found"] for each in values["contradictions"]["labels"])
    assert values["contradictions"]["unchecked"] == {}


def test_the_command_exits_with_1_after_it_has_shown_what_was_found(tmp_path, capsys):
    audited(tmp_path, [*CLEAN, raw(90, "malignant", seed=0)])
    for options, code in (([], 0), (["--strict"], 1)):
        with pytest.raises(SystemExit) as caught:
            main(["audit", "list", "--workspace", str(tmp_path / "ws"), *options])
        assert (caught.value.code or 0) == code
        assert "serious: 2 times the same pixels" in capsys.readouterr().out


def test_rows_of_a_public_set_name_their_files_and_those_of_a_private_one_do_not(tmp_path):
    twice = [*CLEAN, raw(24, "malignant", seed=0)]

    def parts(study):
        return "train" if study.labels["pathology"] == "benign" else "test"

    result = audited(tmp_path, twice, splits=parts)
    (leak,) = [row for row in result.values["leakage"]["rows"] if row["kind"] == "image"]
    assert leak["files"] == ["0.png", "24.png"]
    (conflict, *_) = result.values["conflicts"]["rows"]
    assert conflict["files"] == ["0.png", "24.png"]
    assert "  image in train, test: 0.png 24.png" in result.lines()
    assert "24.png" in Path(result.page).read_text(encoding="utf-8")

    workspace = Workspace.open(tmp_path / "ws")
    ingest(ListSource(twice, name="own", public=False), workspace, IngestConfig())
    private = run(workspace=workspace, dataset="own")
    assert not any("files" in row for row in private.values["duplicates"]["rows"])


def test_what_another_dataset_shares_is_found_and_serious_where_it_was_learned(tmp_path):
    workspace = Workspace.open(tmp_path / "ws")
    ingest(ListSource(CLEAN), workspace, IngestConfig())
    copies = [replace(raw(n), patient_ref=f"q{n}", ref=f"t{n}") for n in range(20, 30)]
    other = ingest(ListSource(copies, name="other"), workspace, IngestConfig())
    kept = [replace(study, split="train") for study in iter_studies(other.path)]
    write_studies(other.path, kept)
    alone = run(workspace=workspace, dataset="list")
    result = run(workspace=workspace, dataset="list", against="other", strict=True)
    assert alone.values["against"] is None
    against = result.values["against"]
    assert (against["shared"], against["exact"], against["images"]) == (4, 4, 24)
    judged = sum(
        study.split != "train" and study.provenance == "" and n >= 20
        for n, study in enumerate(iter_studies(workspace.dataset("list").path))
    )
    assert against["learned"] == judged
    assert "4 of 24 images are also in other" in messages(result, "duplicates")[0]
    assert {file for row in against["rows"] for file in row["files"]} == {
        f"{n}.png" for n in range(20, 24)
    }  # fmt: skip
    assert result.exit_code == (1 if judged else 0)
    assert any(line.startswith("against other: 4 of 24 images, 4 of 24") for line in result.lines())
    with pytest.raises(DataError, match="none"):
        run(workspace=workspace, dataset="list", against="none")
