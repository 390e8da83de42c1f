"""The engine of extraction beside readings made one by one."""

import copy

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from llava_ultra.decoding.contrast import AlternateContrast
from llava_ultra.decoding.contrast_config import ContrastConfig
from llava_ultra.language.chat import decode_text, end_id
from llava_ultra.language.lora import add_lora
from llava_ultra.language.role_names import ROLES
from llava_ultra.testing import enliven, tiny_config, tiny_language
from sonoray_jobs.evaluation.extraction.fields import answer_text, find_fields
from sonoray_jobs.evaluation.extraction.reading import (
    FieldReader,
    encode_example,
    encode_prompt,
    structure_ids,
)

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
enliven(LANGUAGE.model)
TOKENIZER = LANGUAGE.tokenizer
REPORTS = (
    "左侧甲状腺见一低回声结节, 大小约12mm, 边界清晰。",
    "乳腺见无回声。",
    "肝脏大小约_2DS_，边界欠清。",
)
PLAIN, CONTRAST = ContrastConfig(), ContrastConfig(strength=1.5, plausibility=0.01)


def adapted(seed: int) -> nn.Module:
    model = add_lora(copy.deepcopy(LANGUAGE.model), CONFIG.lora).eval()
    generator = torch.Generator().manual_seed(seed)
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model


PEFT = {role: adapted(seed) for seed, role in enumerate(ROLES)}
STATES = {role: get_peft_model_state_dict(model) for role, model in PEFT.items()}


def make_reader(at_once: int, *, own_prompt: bool = False) -> FieldReader:
    language = copy.copy(LANGUAGE)
    object.__setattr__(language, "model", copy.deepcopy(LANGUAGE.model))
    return FieldReader(
        language, STATES, CONFIG.lora, CONFIG, at_once=at_once, own_prompt=own_prompt
    )


def logits_of(role: str, reader: str, prompt: list[int], ids: list[int]) -> Tensor:
    with torch.no_grad():
        cache = PEFT[reader](torch.tensor([prompt[:-1]])).past_key_values
        tail = torch.tensor([[prompt[-1], *ids]])
        found: Tensor = PEFT[role](tail, past_key_values=cache).logits[0, -1]
    return found.float()


def by_hand(report: str, contrast: ContrastConfig, max_tokens: int, *, own_prompt: bool) -> str:
    mark, separator = structure_ids(TOKENIZER)
    end = end_id(TOKENIZER)
    rule = AlternateContrast(settings=contrast, mark=mark, separator=separator, end=end)
    prompt, bare = (encode_prompt(TOKENIZER, text) for text in (report, None))
    ids: list[int] = []
    while len(ids) < max_tokens:
        logits = [logits_of(role, role if own_prompt else "full", prompt, ids) for role in ROLES]
        logits.append(logits_of("full", "full", bare, ids))
        scores = rule(torch.stack(logits)[None], [ids])[0] if contrast.strength else logits[0]
        token = int(scores.argmax())
        if token == end:
            break
        ids.append(token)
    return decode_text(TOKENIZER, ids)


@pytest.mark.parametrize(
    ("contrast", "own_prompt"), [(PLAIN, False), (CONTRAST, False), (CONTRAST, True)]
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_answers_are_those_of_readings_one_by_one(
    contrast: ContrastConfig, own_prompt: bool, at_once: int
):
    reader = make_reader(at_once, own_prompt=own_prompt)
    found = dict(reader.read(REPORTS, contrast, max_tokens=8))
    assert found == {
        number: by_hand(report, contrast, 8, own_prompt=own_prompt)
        for number, report in enumerate(REPORTS)
    }


def test_contrast_changes_answers_here():
    reader = make_reader(2)
    plain, other = (dict(reader.read(REPORTS, way, max_tokens=8)) for way in (PLAIN, CONTRAST))
    assert plain != other


def test_a_report_must_leave_room_for_an_answer():
    reader = make_reader(1)
    assert reader.fits(REPORTS[0])
    assert not reader.fits("乳腺" * 200)


def test_an_example_says_which_role_writes_each_token():
    fields = find_fields(REPORTS[1])
    example = encode_example(TOKENIZER, REPORTS[1], fields)
    assert len(example.answer) == len(example.classifies)
    assert decode_text(TOKENIZER, example.answer[:-1]) == answer_text(fields)
    assert example.answer[-1] == end_id(TOKENIZER)
    by_role = [
        decode_text(
            TOKENIZER,
            [t for t, c in zip(example.answer, example.classifies, strict=True) if c is wanted],
        )
        for wanted in (False, True)
    ]
    assert by_role[0].startswith("乳腺=无回声=")
    assert by_role[1] == "器官;回声;"
