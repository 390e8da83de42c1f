"""The job: a risk model of a dataset in a workspace, kept and explained."""

import pyarrow.parquet as pq
import pytest

from sonoray.errors import DataError
from sonoray_jobs.evaluation.structured import predict_risk
from sonoray_jobs.evaluation.structured.risk_stage import MODEL
from sonoray_jobs.road.config import load_road


def run(workspace, *settings, **given):
    road = load_road("tiny", ["evaluate.bootstrap_samples=1000", *settings])
    return predict_risk.run(workspace=workspace, road=road, dataset="d", **given)


def test_a_risk_is_kept_and_each_prediction_explained(risk_workspace):
    found = run(risk_workspace)
    assert (found.output.path / MODEL).is_file()
    assert any(line.startswith("missed: ") for line in found.lines())
    assert any(line.startswith("histology: left out, it alone tells") for line in found.lines())
    row = pq.read_table(found.output.path / "predictions.parquet").to_pylist()[3]
    again = run(risk_workspace, study=row["study_id"])
    assert again.output.reused
    assert again.explained["risk"] == pytest.approx(row["risk"])
    own = {name: each["contribution"] for name, each in again.explained["columns"].items()}
    assert own == pytest.approx(dict(row["contributions"]))
    assert any(f"{row['study_id']}: risk {row['risk']:.3f}" in line for line in again.lines())


def test_what_is_odd_in_a_table_is_said(risk_workspace, training, tested, tmp_path):
    table = tmp_path / "t.csv"
    rows = [f"{each.study_id},{each.labels.get('age', 'NA')}" for each in (*training, *tested)]
    table.write_text("\n".join(["study_id,age", *rows, "nobody,3"]) + "\n", encoding="utf-8")
    found = run(risk_workspace, table=table)
    assert "1 rows of t.csv are of no study of the dataset" in found.lines()
    unknown = sum("age" not in each.labels for each in tested)
    told = "t.csv tells nothing of {} of 200 test studies"
    assert unknown
    assert told.format(unknown) in found.lines()
    assert len(found.to_json()["remarks"]) == 2
    rows = [f"{each.study_id},{number}" for number, each in enumerate((*training, *tested))]
    table.write_text("\n".join(["study_id,age", *rows]) + "\n", encoding="utf-8")
    assert run(risk_workspace, table=table).to_json()["remarks"] == []
    some = rows[: len(training) + 5]
    table.write_text("\n".join(["study_id,age", *some]) + "\n", encoding="utf-8")
    assert run(risk_workspace, table=table).to_json()["remarks"] == [told.format(195)]
    table.write_text("\n".join(["study_id,age", *rows[: len(training)]]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"of 200 of 200 test studies: nothing can be judged"):
        run(risk_workspace, table=table)


@pytest.mark.parametrize(
    ("settings", "given", "told"),
    [
        ([], {"study": "nobody"}, "study 'nobody' is none of the 600"),
        ([], {"split": "train"}, "split 'train' is none to judge; choose validation or test"),
        ([], {"split": "validation"}, "has 400 training and 0 validation studies"),
        (['risk.columns=["histology"]'], {}, "column 'histology' alone tells 'pathology'"),
        (["risk.outcome=grade"], {}, "outcome 'grade' is neither a closed question's topic"),
    ],
)
def test_what_cannot_be_predicted_is_said(risk_workspace, settings, given, told):
    with pytest.raises(DataError, match=told):
        run(risk_workspace, *settings, **given)
