"""Recognition against a restatement in double precision, in parts, and in two processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_ultra.batch import Batch, StudyFeatures, collate_features, collate_texts
from llava_ultra.config import (
    AdaptiveSampling,
    BlendFusion,
    ClipOnlyFusion,
    ConcatFusion,
    FirstSampling,
    KeepAllSampling,
    RandomSampling,
    SamOnlyFusion,
)
from llava_ultra.language.report_pairs import collate_pairs, encode_bank
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.recognition.bank import BankClass, ClassBank
from llava_ultra.recognition.pairs import TextTokens
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model

RUN = """
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import peft  # here, and not in each of the forked ranks
import torch

from llava_ultra.batch import Batch, StudyFeatures, collate_features, collate_texts
from llava_ultra.language.report_pairs import collate_pairs, encode_bank
from llava_ultra.model import trainable_parameters
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.recognition.bank import BankClass, ClassBank
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model

REPORTS = [TEXTS[4], TEXTS[1], TEXTS[4], TEXTS[6], TEXTS[7], TEXTS[8], TEXTS[2]]
CLASSES = [(0,), (1,), (0,), (), (1, 2), (2,), (1,)]
BANK = ClassBank(classes=[
    BankClass(name="a", descriptions=[TEXTS[1], TEXTS[5]]),
    BankClass(name="b", descriptions=[TEXTS[2]]),
    BankClass(name="c", descriptions=[TEXTS[3], TEXTS[7], TEXTS[0]]),
])


def step(rank, world, limits, settings):
    config = tiny_config().model_copy(update={"objectives": (settings,)})
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    share = np.array_split(np.arange(7), world)[rank].tolist()
    images, rows = [], []
    for place, study in enumerate(share):
        generator = np.random.default_rng(study)
        clip, sam = generator.standard_normal((2, 1 + study % 4, 4, 32), dtype=np.float32)
        images.append(StudyFeatures(clip=clip, sam=sam))
        rows += [(place, "?" * (1 + study), TEXTS[(study + n) % 9]) for n in range(1 + study % 3)]
    visual = collate_features(images)
    text = collate_texts(language.tokenizer, rows, max_tokens=200)
    bank = encode_bank(language.tokenizer, BANK, settings, 200) if settings.bank else None
    pairs = collate_pairs(
        language.tokenizer, [REPORTS[study] for study in share], settings, context_length=200,
        classes=[CLASSES[study] for study in share], bank=bank,
    )
    batch = Batch(visual=visual, text=text, pairs=pairs)
    part = model.step_parts(visual, text, pairs)["recognition"]
    found = forward_share(model, batch, limits)
    found.owed.backward()
    gradients = {}
    for name, parameter in trainable_parameters(model).items():  # as DeepSpeed does
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.distributed.all_reduce(gradient)
        gradients[name] = gradient / world
    return {
        "loss": found.losses["recognition_loss"],
        "gradients": gradients,
        "vectors": list(part.vectors),
        "counts": list(part.counts),
    }


def run(folder, rank, world):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
    )
    found = {}
    for kind, settings in {
        "dfat": RecognitionObjective(),
        "plain": RecognitionObjective(variant="plain", global_share=0.3, head="linear"),
        "dkam": RecognitionObjective(bank="b", contrast=0.3, learn_temperature=True),
        "gmat": RecognitionObjective(bank="b", pooling="attention", anchors="decoder"),
        "nearest": RecognitionObjective(bank="b", pooling="max", layer=1, images="all"),
    }.items():
        sizes = {"whole": 0, "ones": 1, "twos": 2}
        limits = {name: PartLimits(studies=size) for name, size in sizes.items()}
        found[kind] = {key: step(rank, world, each, settings) for key, each in limits.items()}
    torch.save(found, Path(folder) / f"{world}-{rank}.pt")
    torch.distributed.destroy_process_group()


fork = multiprocessing.get_context("fork")
for world in (1, 2):
    ranks = [fork.Process(target=run, args=(sys.argv[1], rank, world)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(1)
"""

KINDS = ("dfat", "plain", "dkam", "gmat", "nearest")


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
    return {(w, r): load(folder / f"{w}-{r}.pt") for w in (1, 2) for r in range(w)}


def load(path: Path) -> dict:
    values: dict = torch.load(path, weights_only=True)
    return values


def nce(similarity: np.ndarray, same: np.ndarray) -> float:
    total = 0.0
    for one, masked in ((similarity, same), (similarity.T, same.T)):
        for row in range(len(one)):
            others = [
                one[row, column]
                for column in range(len(one))
                if column == row or not masked[row, column]
            ]
            total += np.log(np.sum(np.exp(np.array(others) - one[row, row])))
    return total / (2 * len(similarity))


def knowledge(rows, similarity_to_class, labels, temperature) -> float:
    terms = []
    for row, wanted in zip(rows, labels, strict=True):
        chosen = np.flatnonzero(wanted)
        if len(chosen):
            logits = np.array([s(row) for s in similarity_to_class]) / temperature
            terms.append(np.log(np.exp(logits).sum()) - logits[chosen].mean())
    return float(np.mean(terms))


def restated(parts: list[dict], kind: str) -> float:
    """The loss in double precision, from what all ranks brought."""
    vectors = [
        np.concatenate([part["vectors"][n].double().numpy() for part in parts]) for n in range(4)
    ]
    temperature = float(parts[0]["vectors"][4])
    keys = np.concatenate([part["counts"][0].numpy() for part in parts])
    g_img, l_img, g_txt, l_txt = vectors
    same = keys[:, None] == keys[None]
    has_bank = kind in ("dkam", "gmat", "nearest")
    if has_bank:
        labels = np.concatenate([part["counts"][1].numpy() for part in parts])
        for i, j in np.ndindex(same.shape):
            same[i, j] |= bool(labels[i].any() and (labels[i] == labels[j]).all())
    if kind == "plain":
        return 0.3 * nce(g_img @ g_txt.T / temperature, same) + 0.7 * nce(
            l_img @ l_txt.T / temperature, same
        )
    contrast = (
        nce(g_img @ l_txt.T / temperature, same) + nce(l_img @ g_txt.T / temperature, same)
    ) / 2
    if not has_bank:
        return contrast
    texts = parts[0]["vectors"][5].double().numpy()
    owner = parts[0]["counts"][2].numpy()
    weights = parts[0]["vectors"][6].double().numpy() if kind == "gmat" else np.zeros(len(texts))

    def similarity(number):
        own, counts = texts[owner == number], np.exp(weights[owner == number])
        if kind == "nearest":
            return lambda row: max(row @ text for text in own)
        mean = (own * counts[:, None]).sum(axis=0) / counts.sum()
        return lambda row: row @ mean / np.linalg.norm(mean)

    classes = [similarity(number) for number in range(3)]
    known = [knowledge(rows, classes, labels, temperature) for rows in (g_txt, g_img)]
    share = 0.3 if kind == "dkam" else 0.5
    return share * contrast + (1 - share) * sum(known) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2])
def test_the_loss_is_that_of_a_restatement_in_double_precision(found, kind, world):
    brought = [found[world, rank][kind]["whole"] for rank in range(world)]
    expected = restated(brought, kind)
    assert expected > 0.5
    for part in brought:
        assert part["loss"] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_processes_change_neither_loss_nor_gradients(found, kind):
    alone = found[1, 0][kind]["whole"]
    for (_, _), computed in found.items():
        for limits in ("whole", "ones", "twos"):
            other = computed[kind][limits]
            assert other["loss"] == pytest.approx(alone["loss"], rel=1e-6, abs=1e-6)
            for name, gradient in alone["gradients"].items():
                torch.testing.assert_close(
                    other["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name
                )
    learned = [name for name, each in alone["gradients"].items() if each.abs().max() > 0]
    parts = {name.split(".")[0] for name in learned}
    assert parts == {"fusion", "sampler", "recognition", "language_model"} or kind == "nearest"
    assert {"recognition.tokens.image", "recognition.tokens.text"} <= set(learned)


def one_study(config, model, language, settings):
    """Ids and features of a study, alone."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, 2, config.num_tokens, 32, generator=generator)
    return tokens, torch.ones(1, 2, dtype=torch.bool)


@pytest.mark.parametrize("layer", [-2, 1, -1])
def test_vectors_are_means_of_the_states_that_transformers_hands_out(layer):
    settings = RecognitionObjective(layer=layer, images="all")
    config = tiny_config().model_copy(update={"objectives": (settings,)})
    language = tiny_language(config)
    model = tiny_model(config, language)
    tokens, mask = one_study(config, model, language, settings)
    prompt = (5, 6, 7)
    with torch.no_grad():
        found = model.read_images(tokens, mask, prompt, 1)
        words = model.embed(torch.tensor([prompt]))
        images = tokens.flatten(1, 2) * model.embedding_scale
        row = torch.cat(
            [words[:, :1], images, words[:, 1:], model.recognition.tokens["image"][None]], dim=1
        )
        output = model.language_model(inputs_embeds=row, output_hidden_states=True)
        states = output.hidden_states[layer]
        features = model.recognition.heads["image"](states)[0].double().numpy()
    for got, part in ((found.globals_, features[-4:]), (found.locals_, features[:-4])):
        mean = part.mean(axis=0)
        np.testing.assert_allclose(got[0].numpy(), mean / np.linalg.norm(mean), atol=1e-6)


def test_what_a_row_is_padded_with_and_read_beside_does_not_count():
    settings = RecognitionObjective()
    config = tiny_config().model_copy(update={"objectives": (settings,)})
    language = tiny_language(config)
    model = tiny_model(config, language)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    with torch.no_grad():
        both = model.read_texts(TextTokens(ids=ids, mask=mask))
        alone = model.read_texts(TextTokens(ids=ids[1:, :2], mask=mask[1:, :2]))
        left = model.read_texts(TextTokens(ids=ids[1:].flip(1), mask=mask[1:].flip(1)))
        swapped = model.read_texts(TextTokens(ids=ids[1:, [1, 0]], mask=mask[1:, :2]))
    torch.testing.assert_close(both.globals_[1:], alone.globals_)
    torch.testing.assert_close(both.locals_[1:], alone.locals_)
    torch.testing.assert_close(left.globals_, swapped.globals_)


def test_a_layer_that_the_decoder_lacks_is_refused():
    settings = RecognitionObjective(layer=-3)
    config = tiny_config().model_copy(update={"objectives": (settings,)})
    language = tiny_language(config)
    with pytest.raises(ValueError, match=r"layer -3 is none of this decoder's 2 layers; give 1"):
        tiny_model(config, language)


def test_no_tokens_of_a_side_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        RecognitionObjective(image_tokens=0)


@pytest.mark.parametrize(
    "sampling",
    [AdaptiveSampling(), FirstSampling(), KeepAllSampling(), RandomSampling()],
    ids=lambda each: each.type,
)
@pytest.mark.parametrize(
    "fusion",
    [BlendFusion(), ConcatFusion(), ClipOnlyFusion(), SamOnlyFusion()],
    ids=lambda each: each.type,
)
def test_it_composes_with_every_sampler_and_fusion_beside_the_answers(sampling, fusion):
    settings = RecognitionObjective(bank="b")
    config = tiny_config(sampling).model_copy(
        update={"objectives": (AnswerObjective(), settings), "fusion": fusion}
    )
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    generator = np.random.default_rng(0)
    images = []
    for count in (1, 3):
        clip, sam = generator.standard_normal((2, count, 4, 32), dtype=np.float32)
        images.append(StudyFeatures(clip=clip, sam=sam))
    bank = ClassBank(classes=[BankClass(name="良性"), BankClass(name="恶性")])
    batch = Batch(
        visual=collate_features(images),
        text=collate_texts(
            language.tokenizer, [(0, TEXTS[0], TEXTS[1]), (1, TEXTS[0], TEXTS[2])], max_tokens=200
        ),
        pairs=collate_pairs(
            language.tokenizer,
            TEXTS[1:3],
            settings,
            context_length=200,
            classes=[(0,), (1,)],
            bank=encode_bank(language.tokenizer, bank, settings, 200),
        ),
    )
    output = model(batch.visual, batch.text, None, batch.pairs)
    assert set(output.losses) == {"answer_loss", "recognition_loss"}
    output.loss.backward()
    gradient = model.recognition.tokens["image"].grad
    assert gradient is not None
    assert gradient.abs().max() > 0
