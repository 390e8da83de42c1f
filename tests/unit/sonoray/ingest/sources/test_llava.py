import json

import pytest

from sonoray.errors import DataError
from sonoray.ingest.sources.llava import LlavaSource
from sonoray.study.contract import Task


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
        ({"conversations": talk("问", "答")}, {"malformed_item": 1}),
        ({**GOOD, "id": None}, {"malformed_item": 1}),
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
        ({**GOOD, "conversations": talk("别的", "答")}, {"repeated_ref": 1}),
        (None, {"malformed_item": 1}),
    ],
)  # fmt: skip
def test_a_bad_item_is_quarantined_with_its_reason(tmp_path, summary_of, bad, reasons):
    summary = summary_of(LlavaSource(write(tmp_path, GOOD, bad)))
    assert summary["reasons"] == reasons
    assert summary["studies"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}


def test_an_item_twice_is_a_duplicate(tmp_path, summary_of):
    assert summary_of(LlavaSource(write(tmp_path, GOOD, GOOD)))["studies"]["duplicate"] == 1


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
