"""States of a finished road's model against what is known of its studies."""

import csv

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.study.contract import iter_studies
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.encoding import probe_states

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_states_predict_labels_and_a_users_table(finished_road, tmp_path):
    told = ["病灶有多大？"]
    given = {
        "workspace": finished_road.workspace,
        "road": with_values(finished_road.road, {"states.instructions": told}),
        "dataset": "phantom",
        "run": finished_road.trained.name,
        "split": "all",
    }
    found = probe_states.run(**given)
    model = finished_road.road.model.language
    assert found.values["num_layers"] == 1 + model.num_layers
    assert found.values["instructions"] == ["", *told]
    assert any(name.startswith("organ=") for name in found.values["targets"])
    # behind the embedding of one and the same last token nothing is known
    for own in found.values["layers"]:
        assert own[0]["value"] == pytest.approx(0, abs=1e-6)
    assert any("last, minus none" in line for line in found.lines())
    assert probe_states.run(**given).output.reused

    folder = finished_road.workspace.dataset("phantom").path
    studies = [study for study in iter_studies(folder, complete=False) if study.images]
    table = tmp_path / "mine.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "images"])
        for study in studies:
            for extra in (-0.1, 0.1):
                writer.writerow([study.images[0].source_ref, len(study.images) + extra])
    mine = probe_states.run(**given, targets=table)
    assert list(mine.values["targets"]) == ["images"]
    assert mine.values["targets"]["images"]["num_studies"] == len(studies)
    assert 0.9 < mine.values["targets"]["images"]["ceiling"] < 1
    assert len(list(finished_road.workspace.stages.glob("states-phantom-all-*"))) == 1


def test_what_cannot_be_predicted_is_refused(finished_road):
    given = {"workspace": finished_road.workspace, "dataset": "phantom"}
    with pytest.raises(DataError, match="split 'tset' is unknown"):
        probe_states.run(**given, road=finished_road.road, split="tset")
    road = with_values(finished_road.road, {"states.targets": ["weight"]})
    with pytest.raises(ConfigError, match=r"states.targets \['weight'\] are none of"):
        probe_states.run(**given, road=road, split="all")
