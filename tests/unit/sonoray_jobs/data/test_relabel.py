"""A dataset with other answers: the same studies and pictures, and nothing else changed."""

from dataclasses import replace

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.stages import Stage, run_stage
from sonoray.study.contract import Study, StudyImage, Task, Turn, iter_studies, write_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data import relabel

OPTIONS = ("良性", "恶性")
VALUES = {"良性": "benign", "恶性": "malignant"}


def study_of(number, answer):
    image = StudyImage(
        image_id=f"i{number}", uri="images/part-00000.parquet", width=8, height=8,
        labels={"caption": f"{answer}病灶", "shows_finding": "1"},
    )  # fmt: skip
    closed = Turn(
        question="性质？", answer=answer, task=Task.CLOSED, options=OPTIONS, topic="pathology"
    )
    report = Turn(question="描述。", answer=f"考虑{answer}。", task=Task.REPORT, topic="report")
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split="train", dataset="d",
        images=(image,), turns=(report, closed), labels={"pathology": VALUES[answer]},
    )  # fmt: skip


@pytest.fixture
def workspace(tmp_path):
    made = Workspace.open(tmp_path / "ws")

    def make(folder):
        write_studies(folder, [study_of(0, "良性"), study_of(1, "恶性"), study_of(2, "良性")])
        (folder / "images").mkdir()
        (folder / "images" / "part-00000.parquet").write_bytes(b"pixels")
        (folder / "quarantine.parquet").write_bytes(b"rejects")
        return {"unique_images": 3}

    stage = Stage(name="ingest-d", config={"ingest": {"near_duplicate_distance": 6}}, inputs=["k"])
    made.point_dataset("d", run_stage(stage, made.stages, make), {"source": "phantom"})
    return made


def table_of(tmp_path, *rows, header="study_id,topic,answer"):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_an_answer_and_its_label_change_and_the_pictures_are_the_same_files(workspace, tmp_path):
    table = table_of(tmp_path, "s0,pathology,恶性", "s1,pathology,恶性")
    given = {"workspace": workspace, "dataset": "d", "table": table, "name": "mended"}
    found = relabel.run(**given)
    assert (found.values["rows"], found.values["changed"], found.values["labels"]) == (2, 1, 1)
    studies = list(iter_studies(workspace.dataset("mended").path))
    assert [study.turns[1].answer for study in studies] == ["恶性", "恶性", "良性"]
    assert [study.labels["pathology"] for study in studies] == ["malignant", "malignant", "benign"]
    assert studies[0].turns[0].answer == "考虑良性。"  # texts say what they said
    assert any("may say the old answers" in line for line in found.lines())
    before = list(iter_studies(workspace.dataset("d").path))
    assert [each.patient_key for each in studies] == [each.patient_key for each in before]
    for name in ("images/part-00000.parquet", "quarantine.parquet"):
        old, new = (workspace.dataset(each).path / name for each in ("d", "mended"))
        assert old.samefile(new)
    manifest = workspace.dataset("mended").manifest
    assert manifest["summary"]["unique_images"] == 3
    assert manifest["config"]["ingest"] == {"near_duplicate_distance": 6}
    assert "k" in manifest["inputs"]  # whose patient keys these are
    assert workspace.is_synthetic("mended")
    assert relabel.run(**given).output.reused


def test_of_several_questions_of_a_topic_the_first_is_meant(workspace, tmp_path):
    first = Turn(question="左？", answer="无", task=Task.CLOSED, options=("有", "无"), topic="side")

    def make(folder):
        turns = (first, replace(first, question="右？"))
        write_studies(folder, [replace(study_of(0, "良性"), turns=turns)])
        return {}

    stage = Stage(name="ingest-two", config={"ingest": {}}, inputs=["k"])
    workspace.point_dataset("two", run_stage(stage, workspace.stages, make), {"source": "table"})
    table = table_of(tmp_path, "s0,side,有")
    relabel.run(workspace=workspace, dataset="two", table=table, name="n")
    [study] = iter_studies(workspace.dataset("n").path)
    assert [turn.answer for turn in study.turns] == ["有", "无"]


def test_a_dataset_from_elsewhere_keeps_its_name(workspace, tmp_path):
    given = {"workspace": workspace, "table": table_of(tmp_path, "s0,pathology,恶性")}
    relabel.run(**given, dataset="d", name="mended")
    with pytest.raises(ConfigError, match="--name 'd' is that of a dataset from another source"):
        relabel.run(**given, dataset="mended", name="d")
    with pytest.raises(DataError, match="'mended' was relabelled from 'd'; name that one"):
        workspace.dataset_origin("mended")


def test_closed_questions_alone_say_nothing_of_the_old_answer(workspace, tmp_path):
    table = table_of(tmp_path, "s0,pathology,恶性")
    relabel.run(workspace=workspace, dataset="d", table=table, name="n", only_closed=True)
    studies = list(iter_studies(workspace.dataset("n").path))
    assert [len(study.turns) for study in studies] == [1, 1, 1]
    assert all(image.labels == {"shows_finding": "1"} for s in studies for image in s.images)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["s9,pathology,恶性"], None, "names study 's9', which the dataset does not have"),
        (["s0,margin,恶性"], None, "no closed question about 'margin'; it has \\['pathology'\\]"),
        (["s0,report,恶性"], None, "no closed question about 'report'"),
        (["s0,pathology,癌"], None, "'癌' is no answer to 'pathology'; it is one of 良性, 恶性"),
        (["s0,pathology,良性", "s0,pathology,恶性"], None, "line 3: study 's0' has an answer"),
        ([], None, "has 0 rows"),
        (["s0,恶性"], "study_id,answer", "needs rows and the columns study_id, topic, answer"),
    ],
)
def test_a_table_that_corrects_nothing_is_refused(workspace, tmp_path, rows, header, message):
    given = {"header": header} if header else {}
    table = table_of(tmp_path, *rows, **given)
    with pytest.raises(DataError, match=message):
        relabel.run(workspace=workspace, dataset="d", table=table, name="n")
    assert workspace.dataset_names() == ["d"]


def test_a_missing_table_and_the_old_name_are_refused(workspace, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        relabel.run(workspace=workspace, dataset="d", table=tmp_path / "no.csv", name="n")
    for name in ("d", "", "a/b", "..", "a\nb", "Mended", "n" * 64):
        with pytest.raises(ConfigError, match="must be another name than 'd'"):
            relabel.run(
                workspace=workspace, dataset="d", table=table_of(tmp_path), name=name
            )  # fmt: skip
