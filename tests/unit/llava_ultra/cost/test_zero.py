import pytest

from llava_ultra.cost.zero import Part, training_memory

PARTS = (
    Part(name="SAM tower", parameters=999, trainable=0, frozen=999),
    Part(name="language model", parameters=1000, trainable=0, frozen=1000),
    Part(name="LoRA", parameters=80, trainable=80, frozen=0),
)


@pytest.mark.parametrize(
    ("zero_stage", "weights", "gradients"),
    [
        (0, 2000 + 320, 320),
        (1, 2000 + 320, 320),
        (2, 2000 + 320, 320),
        (3, 580 + 2 * 100, 80),
    ],
)
def test_zero_spreads_what_it_says_over_four_gpus(zero_stage, weights, gradients):
    memory = training_memory(
        PARTS,
        precision="bfloat16",
        zero_stage=zero_stage,
        num_gpus=4,
        largest_layer=100,
        activations=7,
    )
    optimizer = 240 if zero_stage else 640  # moments of all, and no copy
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, gradients, optimizer)
    assert memory.total == weights + gradients + optimizer + 7
    assert memory.host == 0


@pytest.mark.parametrize(
    ("zero_stage", "offload", "gpu", "host"),
    [
        (0, "optimizer", 2320 + 320 + 640, 0),
        (1, "optimizer", 2320 + 320, 240 + 80),
        (2, "all", 2320 + 320, 240 + 80),
        (3, "optimizer", 580 + 200 + 80, 240 + 80),
        (3, "all", 200 + 80, 580 + 240 + 80),
    ],
)
def test_what_is_offloaded_lies_on_the_host(zero_stage, offload, gpu, host):
    given = {"precision": "bfloat16", "zero_stage": zero_stage, "num_gpus": 4}
    memory = training_memory(PARTS, **given, largest_layer=100, activations=0, offload=offload)
    assert (memory.total, memory.host) == (gpu, host)


def test_where_everything_learns_deepspeeds_own_estimate_agrees():
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    _, expected = estimate_zero2_model_states_mem_needs(80, num_gpus_per_node=1, cpu_offload=False)
    memory = training_memory(
        PARTS[2:], precision="bfloat16", zero_stage=2, num_gpus=1, largest_layer=0, activations=0
    )
    assert memory.total == expected
