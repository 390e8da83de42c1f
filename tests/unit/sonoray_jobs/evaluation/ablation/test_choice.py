import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.ablation.choice import Choice


def test_what_does_not_fit_is_one_line():
    with pytest.raises(ConfigError, match="--seeds"):
        Choice(name="visual", dataset="phantom", seeds=(1, 1))
    with pytest.raises(ConfigError, match="--label organ is for the modality ablation, not visual"):
        Choice(name="visual", dataset="phantom", label="organ")
    with pytest.raises(ConfigError, match="--split train must be validation or test"):
        Choice(name="visual", dataset="phantom", split="train")
    for number in (0, 65):
        with pytest.raises(ConfigError, match=rf"^--redundancy {number}: .* 1 to 64") as found:
            Choice(name="sampling", dataset="phantom", redundancies=(3, number))
        assert len(str(found.value)) < 160


def test_the_command_in_the_report_names_all_that_decides():
    choice = Choice(
        name="sampling",
        dataset="phantom",
        seeds=(3, 4),
        variants=("first", "random"),
        redundancies=(1, 9),
        split="validation",
        overrides=("model.lora.rank=4", "experiment=a b"),
    )
    assert choice.command == (
        "sonoray ablate sampling --config tiny --dataset phantom --seeds 3,4 "
        "--variants first,random --redundancy 1,9 --split validation --set model.lora.rank=4 "
        "--set 'experiment=a b'"
    )
