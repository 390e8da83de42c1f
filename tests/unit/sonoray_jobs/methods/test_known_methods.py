"""The list of methods: every member of a seam once, and the same as docs/methods.md.

After a change, `SONORAY_WRITE_TABLES=1 pytest tests/unit/sonoray_jobs/methods` writes the table of
the English page anew; the Chinese one is translated by hand and compared here.
"""

import os
import re
from pathlib import Path
from typing import get_args

import pytest

from llava_ultra.config import FusionConfig, ObjectiveConfig, SamplingConfig
from llava_ultra.decoding.rules import DecodingRule
from llava_ultra.perturbations.gallery import PERTURBATIONS
from llava_ultra.pretrain.pretrain_config import ClipObjectiveConfig
from sonoray.errors import ConfigError
from sonoray_jobs.methods.known_methods import (
    COMMANDS,
    KINDS,
    SEAMS,
    first_sentence,
    known_methods,
    papers_in,
)
from sonoray_jobs.methods.list_methods import methods_table, run

ROOT = Path(__file__).resolve().parents[4]
PAGES = [ROOT / "docs" / "methods.md", ROOT / "docs" / "zh" / "methods.md"]
TABLE = re.compile(r"^\| (?:method|方法) \| (?:kind|种类) \|.*\n(?:\|.*\n)+", re.MULTILINE)


def names_of(union):
    return [each.model_fields["type"].default for each in get_args(get_args(union)[0])]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("fusion", names_of(FusionConfig)),
        ("sampling", names_of(SamplingConfig)),
        ("objective", names_of(ObjectiveConfig)),
        ("pretraining", names_of(ClipObjectiveConfig)),
        ("decoding", names_of(DecodingRule)),
        ("perturbation", [each.type for each in PERTURBATIONS]),
    ],
)
def test_every_member_of_a_seam_is_listed_once(kind, names):
    listed = [each.name for each in known_methods() if each.kind == kind]
    assert len(names) > 1
    assert sorted(set(listed) & set(names)) == sorted(names)
    assert len(set(listed)) == len(listed)


def test_what_is_said_of_a_member_is_of_one_that_there_is():
    known = {(each.kind, each.name) for each in known_methods()}
    said = {(seam.kind, name) for seam in SEAMS for name in seam.others}
    assert not said - known
    assert {each.name for each in COMMANDS} <= {name for _, name in known}


def test_every_method_says_what_it_does_needs_and_costs():
    for each in known_methods():
        assert len(each.does) > 15, each
        assert "\n" not in each.does
        assert each.kind in KINDS
        assert each.inputs
        assert each.cost
        assert "`" in each.switch


def test_papers_come_from_docstrings():
    papers = {(each.kind, each.name): each.papers for each in known_methods()}
    assert papers["fusion", "blend"] == ("2410.15074",)
    assert papers["fusion", "concat"] == ("2408.15998",)
    assert papers["fusion", "layer_merge"] == ("2310.08825",)
    assert papers["objective", "recognition"] == ("2503.07487",)
    assert papers["objective", "laver"] == ("2512.06281",)
    assert papers["pretraining", "mlip"] == ("2402.02045",)
    assert papers["decoding", "top_p"] == ("1904.09751",)
    assert papers["perturbation", "calibration"] == ("2512.21964",)
    assert papers["loop", "write-bank"] == ("2508.01293",)
    assert papers["sampling", "random"] == ()
    assert papers_in("as arXiv 2402.02045 and arXiv:2402.02045 say") == ("2402.02045",)


def test_the_defaults_are_those_of_the_model():
    on = [each.name for each in known_methods() if each.is_default]
    assert on == ["blend", "adaptive", "answer", "distillation", "grounding", "image_text"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One thing. Another.", "One thing"),
        ("A sum (arXiv 2410.15074): 1.5 of\nit.", "A sum: 1.5 of it"),
        ("No stop at the end\n\nMore.", "No stop at the end"),
    ],
)
def test_the_first_sentence_of_a_docstring(text, sentence):
    assert first_sentence(text) == sentence


def test_a_kind_is_listed_alone_and_an_unknown_one_refused():
    listed = run(kinds=["probe"])
    assert {each.kind for each in listed.methods} == {"probe"}
    assert listed.lines()[0] == "probe"
    assert [each["name"] for each in listed.to_json()["methods"]] == [
        each.name for each in listed.methods
    ]
    with pytest.raises(ConfigError, match="--kind 'prob' is unknown; use one of fusion"):
        run(kinds=["prob"])


def test_the_page_has_the_same_methods():
    english, chinese = PAGES
    text = english.read_text(encoding="utf-8")
    wanted = "\n".join(methods_table(known_methods()).markdown()) + "\n"
    if os.environ.get("SONORAY_WRITE_TABLES"):
        english.write_text(TABLE.sub(lambda _: wanted, text), encoding="utf-8")
        text = english.read_text(encoding="utf-8")
    (shown,) = TABLE.findall(text)
    assert shown == wanted
    (translated,) = TABLE.findall(chinese.read_text(encoding="utf-8"))
    ours, theirs = (
        [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:]]
        for table in (shown, translated)
    )
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    assert [row[2] for row in ours] == [row[2] for row in theirs]
    code = [[set(re.findall(r"`[^`]+`", row[5])) for row in table] for table in (ours, theirs)]
    assert code[0] == code[1]
