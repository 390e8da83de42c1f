import base64
import io
import json

import pytest
from PIL import Image

from sonoray.errors import DataError
from sonoray.ingest.sources.llava import LlavaSource
from sonoray.study.contract import Task

_FILE = io.BytesIO()
Image.linear_gradient("L").save(_FILE, "PNG")
PNG = _FILE.getvalue()


def talk(*texts, system=False):
    turns = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(texts)
    ]
    return [{"from": "system", "value": "s"}, *turns] if system else turns


def write(folder, *items, name="t.json"):
    path = folder / name
    path.write_text(json.dumps(items) if name == "t.json" else "\n".join(map(json.dumps, items)))
    return path


def said(role, content):
    return {"role": role, "content": content}


GOOD = {"id": "good", "conversations": talk("问", "答")}


def test_turns_and_images_come_in_order_and_markers_go(tmp_path, picture):
    for seed, name in enumerate("ab"):
        picture(tmp_path / "images" / f"{name}.png", seed)
    item = {
        "id": 7,
        "image": ["images/b.png", "images/a.png"],
        "patient": 12,
        "conversations": talk(
            "<image>\n<image>有结节吗？", " 有。", "在哪里？", "左叶。", system=True
        ),
    }
    (study,) = LlavaSource(write(tmp_path, item), name="lab").iter_studies()
    assert (study.ref, study.patient_ref, study.problem) == ("lab/7", "12", "")
    assert [image.ref for image in study.images] == ["images/b.png", "images/a.png"]
    assert all(image.data and not image.labels for image in study.images)
    assert [(turn.question, turn.answer) for turn in study.turns] == [
        ("有结节吗？", "有。"),
        ("在哪里？", "左叶。"),
    ]
    assert {turn.task for turn in study.turns} == {Task.OPEN}


def test_both_spellings_and_both_file_forms_say_the_same(tmp_path, picture):
    picture(tmp_path / "a.png")
    llava = {"id": "a", "image": "a.png", "conversations": talk("<image>问", "答")}
    chat = {
        "id": "a",
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": "<image>问"},
            {"role": "assistant", "content": "答"},
        ],
    }
    seen = []
    for item in (llava, chat):
        for name in ("t.json", "t.jsonl"):
            (study,) = LlavaSource(write(tmp_path, item, name=name)).iter_studies()
            seen.append((study.ref, study.patient_ref, study.turns, study.images[0].data))
    assert seen == [seen[0]] * 4


def test_without_a_patient_an_item_is_its_own_in_its_own_dataset(tmp_path):
    path = write(tmp_path, GOOD)
    patients = [
        next(LlavaSource(path, name=name).iter_studies()).patient_ref for name in ("a", "b")
    ]
    assert patients == ["a/good", "b/good"]


def test_a_description_is_the_caption_of_a_single_image(tmp_path, picture):
    picture(tmp_path / "a.png")
    one = {**GOOD, "image": "a.png", "description": "低回声。"}
    two = {**GOOD, "image": ["a.png", "a.png"], "description": "低回声。"}
    studies = list(LlavaSource(write(tmp_path, one, two)).iter_studies())
    assert studies[0].images[0].labels == {"caption": "低回声。"}
    assert [image.labels for image in studies[1].images] == [{}, {}]


@pytest.mark.parametrize(
    ("bad", "reasons"),
    [
        ({"id": "x"}, {"malformed_item": 1}),
        ({"id": "x", "messages": [{"role": "tool", "content": "x"}]}, {"malformed_item": 1}),
        ({**GOOD, "id": "x", "images": [""]}, {"malformed_item": 1}),
        ({**GOOD, "id": "x", "images": [{"bytes": "x"}]}, {"malformed_item": 1}),
        ({"instruction": "问", "output": "答", "history": [["a"]]}, {"malformed_item": 1}),
        ({"instruction": ["问"], "output": "答"}, {"malformed_item": 1}),
        ({"messages": [said("user", [{"type": "video", "video": "a"}])]}, {"malformed_item": 1}),
        ({"messages": [said("user", [{"type": "text"}])]}, {"malformed_item": 1}),
        ({**GOOD, "id": "x", "image": "https://a.b/c.png"}, {"remote_image": 1, "empty_study": 1}),
        ({**GOOD, "id": "x", "image": "data:image/png;base64,?"},
         {"malformed_item": 1, "empty_study": 1}),
        ({**GOOD, "id": "x", "conversations": "问"}, {"malformed_item": 1}),
        ({"id": "x", "conversations": [{"from": "bot", "value": ""}]}, {"malformed_item": 1}),
        ({**GOOD, "id": "x", "image": 3}, {"malformed_item": 1}),
        ({**GOOD, "id": "x", "conversations": []}, {"role_order": 1}),
        ({**GOOD, "id": "x", "conversations": talk("问")}, {"role_order": 1}),
        ({**GOOD, "id": "x", "conversations": talk("问", "答", "问")}, {"role_order": 1}),
        ({**GOOD, "id": "x", "conversations": talk("问", "答")[::-1]}, {"role_order": 1}),
        ({**GOOD, "id": "x", "conversations": talk("<image>问", "答")}, {"image_markers": 1}),
        ({**GOOD, "id": "x", "conversations": talk("问", "")}, {"empty_turn": 1}),
        ({**GOOD, "id": "x", "image": "no.png"}, {"missing_file": 1, "empty_study": 1}),
        ({**GOOD, "id": "x", "image": "../t.json"}, {"outside_folder": 1, "empty_study": 1}),
        (None, {"malformed_item": 1}),
    ],
)  # fmt: skip
def test_a_bad_item_is_quarantined_with_its_reason(tmp_path, summary_of, bad, reasons):
    summary = summary_of(LlavaSource(write(tmp_path, GOOD, bad)))
    assert summary["reasons"] == reasons
    assert summary["studies"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}


def test_an_item_twice_is_a_duplicate(tmp_path, summary_of):
    assert summary_of(LlavaSource(write(tmp_path, GOOD, GOOD)))["studies"]["duplicate"] == 1


def test_conversations_about_one_image_under_one_id_are_one_study(tmp_path, picture, summary_of):
    """Twelve items of four ids: none is lost, and one that is repeated whole is counted."""
    items = []
    for number in range(12):
        name = f"{number % 4}.png"
        picture(tmp_path / name, number % 4)
        items.append(
            {"id": name, "image": name, "conversations": talk(f"<image>问题{number}怎么样？", "答")}
        )
    source = LlavaSource(write(tmp_path, *items))
    studies = list(source.iter_studies())
    assert len(source) == 4
    assert [turn.question for turn in studies[1].turns] == [
        "问题1怎么样？", "问题5怎么样？", "问题9怎么样？",
    ]  # fmt: skip
    assert studies[1].provenance == "llava, item[1], [5], [9]"
    assert summary_of(source)["studies"] == {
        "seen": 4, "kept": 4, "duplicate": 0, "quarantined": 0,
    }  # fmt: skip
    again = LlavaSource(write(tmp_path, *items, items[1]))
    assert [study.problem for study in again.iter_studies()][4] == (
        "repeated_item: item[12] is in a study of its id already"
    )
    assert summary_of(again)["reasons"]["repeated_item"] == 1


def test_one_id_of_several_images_is_several_studies_of_one_patient(tmp_path, picture):
    for seed, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", seed)
    items = [{**GOOD, "image": f"{name}.png"} for name in "ab"]
    studies = list(LlavaSource(write(tmp_path, *items)).iter_studies())
    assert [study.ref for study in studies] == ["llava/good", "llava/good[1]"]
    assert {study.patient_ref for study in studies} == {"llava/good"}


def test_items_without_an_id_are_called_by_position_and_share_the_patient_of_their_image(
    tmp_path, picture, summary_of
):
    picture(tmp_path / "a.png")
    items = [
        {"images": ["a.png"], "messages": [said("user", f"<image>问题{n}怎么样？"),
                                           said("assistant", "答")]}
        for n in range(12)
    ]  # fmt: skip
    source = LlavaSource(write(tmp_path, *items, {"messages": items[0]["messages"][1:]}))
    studies = list(source.iter_studies())
    assert [study.ref for study in studies[:2]] == ["llava/[0]", "llava/[1]"]
    assert {study.patient_ref for study in studies[:12]} == {"llava/[0]"}
    summary = summary_of(source)
    assert summary["studies"]["kept"] == 12
    assert summary["reasons"] == {"role_order": 1}


DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
TURNS = [("有结节吗这张图？", "有。"), ("结节在哪一叶里面？", "左叶。")]


@pytest.mark.parametrize(
    "item",
    [
        {"messages": [
            said("system", "s"),
            said("user", [{"type": "image_url", "image_url": {"url": "a.png"}},
                          {"type": "text", "text": TURNS[0][0]}]),
            said("assistant", [{"type": "text", "text": TURNS[0][1]}]),
            said("user", TURNS[1][0]), said("assistant", TURNS[1][1]),
        ]},
        {"messages": [
            said("user", [{"type": "image", "image": "a.png"},
                          {"type": "text", "text": TURNS[0][0]}]),
            said("assistant", TURNS[0][1]),
            said("user", TURNS[1][0]), said("assistant", TURNS[1][1]),
        ]},
        {"messages": [
            said("user", [{"type": "image"}, {"type": "text", "text": TURNS[0][0]}]),
            said("assistant", TURNS[0][1]),
            said("user", TURNS[1][0]), said("assistant", TURNS[1][1]),
        ], "images": [{"path": "a.png"}]},
        {"instruction": TURNS[1][0], "input": "", "output": TURNS[1][1], "system": "s",
         "history": [list(TURNS[0])], "images": "a.png"},
        {"query": TURNS[1][0], "response": TURNS[1][1], "history": [list(TURNS[0])],
         "images": ["a.png"]},
    ],
)  # fmt: skip
def test_the_spellings_of_openai_llama_factory_and_swift_say_the_same(tmp_path, picture, item):
    picture(tmp_path / "a.png")
    (study,) = LlavaSource(write(tmp_path, item)).iter_studies()
    assert (study.problem, study.ref) == ("", "llava/[0]")
    assert [image.ref for image in study.images] == ["a.png"]
    assert [(turn.question, turn.answer) for turn in study.turns] == TURNS


def test_an_image_may_stand_in_the_item_itself(tmp_path, summary_of):
    part = {"type": "image_url", "image_url": {"url": DATA_URL}}
    item = {
        "messages": [said("user", [part, {"type": "text", "text": "问"}]), said("assistant", "答")]
    }
    source = LlavaSource(write(tmp_path, item))
    (study,) = source.iter_studies()
    assert [image.data for image in study.images] == [PNG]
    assert summary_of(source)["images"]["kept"] == 1


@pytest.mark.parametrize(
    ("question", "follows"),
    [
        ("第二个多大？", True),
        ("在哪里？", True),
        ("它的边界清楚吗，形态规则吗？", True),
        ("那么这提示什么样的诊断呢？", True),
        ("该结节的血流信号怎么样分布？", True),
        ("这张图像显示的是哪一个器官？", False),
        ("该超声图像中有没有结节出现？", False),
        ("病灶的边界是清楚还是模糊的？", False),
        ("How big?", True),
        ("Is it malignant or benign?", True),
        ("What about the second one?", True),
        ("Which organ do these images show?", False),
        ("Where in the liver is the lesion?", False),
    ],
)
def test_a_question_that_needs_the_one_before_is_marked(tmp_path, question, follows):
    first, *rest = {"id": "a", "conversations": talk(question, "答", question, "答")}, GOOD
    asked, good = LlavaSource(write(tmp_path, first, *rest)).iter_studies()
    topics = ["conversation", "follow_up" if follows else "conversation"]
    assert [turn.topic for turn in asked.turns] == topics
    assert asked.labels == {"conversation": "ordered" if follows else "independent"}
    assert good.labels == {"conversation": "independent"}


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe\x00"])
def test_a_file_that_is_no_list_is_one_clear_error(tmp_path, data):
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(DataError, match=r"file .*json"):
        LlavaSource(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("file", "images", "count"),
    [
        ("zh_captions_llava/busi.json", "", 77),
        ("zh_captions_llava/busbra.json", "", 1174),
        ("sonovlm_demo/captions_zh_dev.json", "sonovlm_demo", 5),
    ],
)
def test_the_real_files_are_understood_in_full(shared_data, file, images, count):
    path = shared_data(file)
    source = LlavaSource(path, path.parents[1] / images)
    studies = list(source.iter_studies())
    assert len(source) == len(studies) == count
    assert [study.ref for study in studies if study.problem] == []
    assert all(image.data for study in studies for image in study.images)
    assert not any("<image>" in turn.question for study in studies for turn in study.turns)


def test_a_patient_that_a_spreadsheet_changed_is_refused(tmp_path):
    items = [{**GOOD, "id": str(n), "patient": "4.40106E+17"} for n in range(2)]
    *refused, good = LlavaSource(write(tmp_path, *items, GOOD)).iter_studies()
    assert {study.problem.partition(" has ")[0] for study in refused} == {
        "rounded_identifier: an item's patient"
    }
    assert good.problem == ""
