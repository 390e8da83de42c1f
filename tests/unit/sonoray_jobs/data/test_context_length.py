import copy
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from llava_ultra.batch import collate_texts
from llava_ultra.config import AdaptiveSampling, KeepAllSampling, ModelConfig, SamplingConfig
from llava_ultra.language.decoder import save_language
from llava_ultra.language.tokenizer import PLACEHOLDERS
from llava_ultra.testing import tiny_config, tiny_language
from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray.study.prompt import FOLLOW_UP
from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer, taught

LANGUAGE = tiny_language(tiny_config())
TOKENIZER = LANGUAGE.tokenizer
TURN = Turn(
    question="病灶是良性还是恶性?",
    answer="恶性",
    task=Task.CLOSED,
    options=("良性", "恶性, 边界不清晰"),
)


def study(*turns: Turn, num_images: int = 1, name: str = "s1") -> Study:
    images = tuple(
        StudyImage(image_id=f"{name}-{place}", uri="", width=8, height=8)
        for place in range(num_images)
    )
    return Study(
        study_id=name, patient_key="p", split="train", dataset="d", images=images, turns=turns
    )


def model(context_length: int, sampling: SamplingConfig | None = None) -> ModelConfig:
    config = tiny_config(sampling)
    language = config.language.model_copy(update={"context_length": context_length})
    return config.model_copy(update={"language": language})


def length(question: str, answer: str, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> int:
    """Of the text alone, as training itself would encode it."""
    rows = [(0, question, answer)]
    return int(collate_texts(tokenizer, rows, max_tokens=10_000).mask.sum())


pieces = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(["<assistant>", "</s>", "<pad>", *PLACEHOLDERS, "甲状腺"]),
)
texts = st.lists(pieces, max_size=4).map("".join)


@settings(max_examples=60)
@given(question=texts, answer=texts)
@example(question="", answer="")
@example(question="<user>", answer="大小_2DS_毫米</s>")
def test_a_text_is_as_long_as_training_finds_it(question, answer):
    """With one image of four tokens, and one token left free."""
    needed = length(question, answer) + 4
    given_study = study(Turn(question=question, answer=answer))
    check_lengths(TOKENIZER, [given_study], model(needed + 1))
    with pytest.raises(DataError, match=rf"'s1', has {needed};"):
        check_lengths(TOKENIZER, [given_study], model(needed))


@pytest.mark.parametrize(
    ("sampling", "num_kept"),
    [
        (AdaptiveSampling(num_selected=2), 2),
        (AdaptiveSampling(num_selected=9), 5),
        (KeepAllSampling(), 5),
        (None, 1),
    ],
)
def test_the_images_that_are_kept_count(sampling, num_kept):
    needed = length(TURN.question, TURN.answer) + 4 * num_kept
    check_lengths(TOKENIZER, [study(TURN, num_images=5)], model(needed + 1, sampling))
    with pytest.raises(DataError, match=f"has {needed};"):
        check_lengths(TOKENIZER, [study(TURN, num_images=5)], model(needed, sampling))


def test_all_are_counted_and_the_longest_is_named():
    long = [replace(TURN, answer="左" * size) for size in (90, 200, 70)]
    studies = [study(TURN), *(study(TURN, turn, name=f"l{n}") for n, turn in enumerate(long))]
    needed = length(TURN.question, "左" * 200) + 4
    message = (
        rf"context of 80 tokens with their images: 3; the longest, 'l1', has {needed}; shorten"
    )
    with pytest.raises(DataError, match=message):
        check_lengths(TOKENIZER, studies, model(80))


def test_evaluation_judges_options_and_not_the_answer():
    needed = length(TURN.question, TURN.options[1]) + 4
    given_study = study(replace(TURN, answer="左" * 300))
    check_lengths(TOKENIZER, [given_study], model(needed + 1), judged)
    with pytest.raises(DataError, match=f"has {needed};"):
        check_lengths(TOKENIZER, [given_study], model(needed), judged)
    assert taught(TURN) == ("恶性",)
    assert judged(replace(TURN, options=())) == ("",)


def test_a_chat_template_counts_with_all_that_it_says_by_itself():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = (
        "<s>{{ 'You answer questions about ultrasound images in short.' }}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    needed = length(TURN.question, TURN.answer, tokenizer) + 4
    assert needed > length(TURN.question, TURN.answer) + 4 + 20
    check_lengths(tokenizer, [study(TURN)], model(needed + 1))
    with pytest.raises(DataError, match=f"has {needed};"):
        check_lengths(tokenizer, [study(TURN)], model(needed))


def test_the_tokenizer_is_read_from_the_language_model_and_left_as_it_is(tmp_path):
    save_language(LANGUAGE, tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    before = backend.to_str()
    with pytest.raises(DataError, match="'s1'"):
        check_lengths(tokenizer, [study(TURN)], model(10))
    assert backend.to_str() == before
    assert len(backend.encode("<user>", add_special_tokens=False).ids) == 1


def test_counting_needs_no_torch(tmp_path):
    save_language(LANGUAGE, tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from sonoray_jobs.data.context_length import check_lengths, read_tokenizer\n"
        "from llava_ultra.config import ModelConfig\n"
        "check_lengths(read_tokenizer(Path(sys.argv[1])), [], ModelConfig())\n"
        "print(*sys.modules)"
    )
    child = [sys.executable, "-c", code, str(tmp_path)]
    loaded = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()
    assert "tokenizers" in loaded
    assert "torch" not in loaded


def test_a_follow_up_is_as_long_as_with_all_before_it():
    told = (TURN.question, TURN.answer, "在哪里?")
    needed = int(collate_texts(TOKENIZER, [(0, told, "左叶")], max_tokens=10_000).mask.sum())
    asked = study(TURN, Turn(question=told[-1], answer="左叶", topic=FOLLOW_UP))
    one_image = tiny_config().num_tokens
    check_lengths(TOKENIZER, [asked], model(one_image + needed + 1))
    with pytest.raises(DataError, match=f"has {one_image + needed};"):
        check_lengths(TOKENIZER, [asked], model(one_image + needed))
