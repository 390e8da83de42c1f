"""What an evaluation asks, and when it is reused; the answering itself is in tests/e2e."""

import pytest

from sonoray.stages import StageOutput
from sonoray_jobs.evaluation.evaluate import Evaluated
from sonoray_jobs.outputs.find import Trained, evaluation_stage
from sonoray_jobs.road.config import RoadConfig


def test_an_evaluation_is_reused_wherever_it_runs_and_not_for_other_answers(tmp_path):
    dataset = StageOutput(path=tmp_path, manifest={"key": "d" * 64}, reused=True)
    trained = Trained(name="t", run_id="r", checkpoint=tmp_path, metrics={}, reused=True)

    def key(**settings):
        road = RoadConfig(evaluate=settings)
        return evaluation_stage(road, "phantom", dataset, trained, "test").key

    assert key(actors=1, actor_cpus=3, actor_gpus=1) == key()
    assert key(batch_tokens=7, batch_size=1) == key()
    assert key(max_tokens=7) != key()
    assert key(topics=["report"]) != key()


@pytest.mark.parametrize("num_cut", [0, 3])
def test_answers_that_were_cut_are_said(tmp_path, num_cut):
    summary = {
        "num_questions": 10, "num_studies": 5, "num_cut": num_cut, "closed": {}, "text": {},
        "consistency": None, "hit_rate": None, "chance_hit_rate": None, "attention_hit_rates": {},
    }  # fmt: skip
    output = StageOutput(path=tmp_path, manifest={"summary": summary}, reused=False)
    said = [
        line for line in Evaluated(output=output, split="test").lines() if line.startswith("cut: ")
    ]
    assert len(said) == (num_cut > 0)
    assert all("3 of 10 free answers reached evaluate.max_tokens" in line for line in said)
