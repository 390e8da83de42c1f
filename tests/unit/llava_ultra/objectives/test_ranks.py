"""Losses and gradients of a step do not depend on how many processes share it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

RUN = """
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import peft  # here, and not in each of the forked ranks
import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.connector.scores import Scores
from llava_ultra.model import trainable_parameters
from llava_ultra.recognition.losses import info_nce
from llava_ultra.objectives.grounding import grounding_similarity, queries_and_keys
from llava_ultra.objectives.ranks import gather_rows
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model


def weighted_step(loss, parameters, rows, total, world):
    # as the training worker and DeepSpeed do: the rank's weight, then the mean over ranks
    (loss * (rows * world / total)).backward()
    found = {}
    for name, parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.distributed.all_reduce(gradient)
        found[name] = gradient / world
    return found


def model_step(rank, world):
    config = tiny_config()
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    share = np.array_split(np.arange(6), world)[rank].tolist()
    images, rows = [], []
    for place, study in enumerate(share):
        generator = np.random.default_rng(study)
        shape = (1 + study % 4, 4, 32)
        clip, sam = generator.standard_normal((2, *shape), dtype=np.float32)
        images.append(StudyFeatures(clip=clip, sam=sam))
        # unlike numbers of texts of unlike lengths
        rows += [(place, "?" * (1 + study), TEXTS[(study + n) % 9]) for n in range(1 + study % 3)]
    text = collate_texts(language.tokenizer, rows, max_tokens=200)
    output = model(collate_features(images), text)
    total = torch.tensor(float(len(rows)))
    torch.distributed.all_reduce(total)
    means = {}
    for name, loss in {**output.losses, "loss": output.loss.detach()}.items():
        means[name] = loss * len(rows) / total
        torch.distributed.all_reduce(means[name])
    parameters = trainable_parameters(model).items()
    gradients = weighted_step(output.loss, parameters, len(rows), float(total), world)
    return {"losses": means, "gradients": gradients}


def ragged_step(rank, world):
    # five studies, all on the last rank: the others have none, and their gradients are numbers
    torch.manual_seed(0)
    scores = Scores(width=8, word_weights="information")
    tokens, text = torch.randn(5, 3, 4, 8), torch.randn(5, 6, 8)
    images = torch.arange(3) < torch.tensor([1, 2, 3, 1, 2])[:, None]
    words = torch.arange(6) < torch.tensor([1, 6, 3, 2, 4])[:, None]
    mine = slice(0, 5) if rank == world - 1 else slice(0, 0)
    own = queries_and_keys(scores, tokens[mine], images[mine], text[mine], words[mine])
    similarity = grounding_similarity([own])
    loss = info_nce(similarity)
    learned = [(n, p) for n, p in scores.named_parameters() if not n.startswith("feature_head")]
    gradients = weighted_step(loss, learned, 1.0, float(world), world)
    touched = [parameter.grad is not None for _, parameter in learned]
    return {"loss": loss.detach(), "gradients": gradients, "touched": all(touched)}


def rows_step(rank, world):
    rows = (torch.arange(2.0 * rank).view(rank, 2) + 10 * rank).requires_grad_()
    gathered = gather_rows(rows)
    (gathered * torch.arange(1.0, len(gathered) + 1)[:, None] * (rank + 1)).sum().backward()
    return {"gathered": gathered.detach(), "gradient": rows.grad}


def run(folder, rank, world):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
    )
    found = {step.__name__: step(rank, world) for step in (model_step, ragged_step, rows_step)}
    torch.save(found, Path(folder) / f"{world}-{rank}.pt")
    torch.distributed.destroy_process_group()


fork = multiprocessing.get_context("fork")
for world in (1, 2, 3):
    ranks = [fork.Process(target=run, args=(sys.argv[1], rank, world)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict]:
    """By (number of ranks, rank): what it computed."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return {(w, r): load(folder / f"{w}-{r}.pt") for w in (1, 2, 3) for r in range(w)}


def load(path: Path) -> dict:
    values: dict = torch.load(path, weights_only=True)
    return values


@pytest.mark.parametrize("world", [2, 3])
def test_a_step_with_the_default_losses_is_the_same_on_any_number_of_ranks(found, world):
    alone = found[1, 0]["model_step"]
    assert set(alone["losses"]) == {"loss", "answer_loss", "distillation_loss", "grounding_loss"}
    assert alone["losses"]["grounding_loss"] > 1  # log 6 is 1.8
    for rank in range(world):
        shared = found[world, rank]["model_step"]
        torch.testing.assert_close(shared["losses"], alone["losses"], rtol=1e-6, atol=1e-6)
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(
                shared["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name
            )


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_without_a_text_take_part_and_touch_their_parameters(found, world):
    alone = found[1, 0]["ragged_step"]
    for rank in range(world):
        shared = found[world, rank]["ragged_step"]
        assert shared["touched"]
        torch.testing.assert_close(shared["loss"], alone["loss"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(shared["gradients"], alone["gradients"], rtol=1e-5, atol=1e-6)


def test_rows_come_in_order_of_the_ranks_and_their_gradients_go_back(found):
    assert found[1, 0]["rows_step"]["gathered"].shape == (0, 2)
    expected = torch.tensor([[10.0, 11], [20, 21], [22, 23]])
    for rank in range(3):
        rows = found[3, rank]["rows_step"]
        assert torch.equal(rows["gathered"], expected)
        # row i has factor i + 1 on each rank, times 1 + 2 + 3 over the ranks
        factors = {0: [], 1: [1], 2: [2, 3]}[rank]
        wanted = torch.tensor([[6.0 * factor] * 2 for factor in factors]).view(-1, 2)
        assert torch.equal(rows["gradient"], wanted)
