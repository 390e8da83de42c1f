"""What a served model says of classes: what is kept of it, what is dropped, and the new bank."""

from pathlib import Path

import pytest

from llava_ultra.recognition.bank import BankClass, ClassBank
from sonoray.errors import ConfigError
from sonoray.study.contract import Study
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.class_writer import ROLES, extended, gather, refusal, run
from sonoray_jobs.service.service_client import Reply

BANK = ClassBank(
    name="mine",
    source="hand",
    label="kind",
    separator="|",
    prompt="显示{class}。",
    classes=(
        BankClass(name="囊肿", values=("cyst",), descriptions=("无回声。",), excludes=("毛刺",)),
        BankClass(name="癌", values=("cancer",), aliases=("恶性",), descriptions=("低回声。",)),
        BankClass(name="未见病灶", label="finding", values=("0",), absence_of="病灶"),
    ),
)


def study(name):
    return Study(
        study_id=name, patient_key=name, split="train", dataset="d", images=(), turns=(), labels={}
    )


def reply(answer, finish="stop"):
    return Reply(
        question="?",
        answer=answer,
        finish_reason=finish,
        images=(),
        notice="",
        model="llava-ultra-d",
        digest="0",
        prompt_tokens=1,
        completion_tokens=1,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("后方回声增强。", ""),
        ("", "empty"),
        ("有什么建议？", "asks something"),
        ("低回声。", "said before"),
        ("边缘毛刺。", "names what the class excludes"),
        ("不是恶性。", "names another class"),
        ("未见病灶。", "names another class"),
        ("光滑", "answers another question"),
    ],
)
def test_an_answer_is_kept_that_is_new_and_names_nothing_else(text, reason):
    known, learned = {"无回声。", "低回声。"}, {"光滑", "毛刺", "低回声。"}
    assert refusal(BANK, BANK.classes[0], text, known, learned) == reason


def test_every_study_is_asked_in_every_role_and_nothing_is_dropped_silently():
    answers = iter(
        [
            "壁薄。",
            "壁薄。",
            "边缘毛刺。",
            "后方增强。",
            "边缘成角。",
            ("说到一半", "length"),
            "",
            "有声影。",
        ]
    )
    asked = []

    def answer(of, question):
        asked.append((of.study_id, question))
        said = next(answers)
        return reply(*said) if isinstance(said, tuple) else reply(said)

    shown = {"囊肿": [study("a"), study("b")], "癌": [study("c"), study("d")]}
    written = gather(BANK, shown, ("morphology", "texture"), answer, Path("out.toml"))
    questions = [ROLES[role]["zh"] for role in ("morphology", "texture")]
    assert asked == [(name, q) for pair in ("ab", "cd") for q in questions for name in pair]
    assert written.kept == {"囊肿": ["壁薄。", "后方增强。"], "癌": ["边缘成角。", "有声影。"]}
    assert written.dropped == {
        "said before": 1,
        "names what the class excludes": 1,
        "cut at its end": 1,
        "empty": 1,
    }
    assert sum(written.dropped.values()) + 4 == len(asked)
    assert written.unseen == ["未见病灶"]
    made = extended(BANK, written)
    assert made.classes[0].descriptions == ("无回声。", "壁薄。", "后方增强。")
    assert made.source == "hand; others written by llava-ultra-d"


def test_what_cannot_be_written_is_refused_before_anything_is_asked(tmp_path):
    given = {
        "workspace": Workspace.open(tmp_path / "ws"),
        "road": RoadConfig(),
        "dataset": "phantom",
        "classes": "phantom-zh",
        "out": tmp_path / "new.toml",
        "url": "http://127.0.0.1:1/v1",
    }
    with pytest.raises(ConfigError, match="--role smell is unknown; use some of morphology"):
        run(**given, roles=("smell",))
    for out, why in (("new.txt", "does not end in .toml"), ("there.toml", "is there already")):
        (tmp_path / "there.toml").touch()
        with pytest.raises(ConfigError, match=f"--out .*{why}; name a new .toml file"):
            run(**{**given, "out": tmp_path / out})
