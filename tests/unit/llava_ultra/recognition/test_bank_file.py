import json
import re

import pytest

from llava_ultra.recognition.bank_file import load_bank, packaged_banks


@pytest.mark.parametrize("name", packaged_banks())
def test_a_packaged_bank_has_several_descriptions_of_each_class_and_a_label(name):
    bank = load_bank(name)
    assert bank.name == name
    assert bank.language == name.rpartition("-")[2]
    assert bank.label
    assert bank.source
    assert all(len(each.descriptions) >= 2 for each in bank.classes)
    chinese = [bool(re.search("[\u4e00-\u9fff]", text)) for _, text in bank.texts()]
    assert all(chinese) if bank.language == "zh" else not any(chinese)


@pytest.mark.parametrize(
    "organ", ["breast", "birads", "thyroid", "liver", "lung", "phantom", "chest"]
)
def test_both_languages_have_the_same_classes(organ):
    one, other = load_bank(f"{organ}-zh"), load_bank(f"{organ}-en")
    assert [each.values for each in one.classes] == [each.values for each in other.classes]
    assert len(one.classes) >= 3


def test_the_breast_bank_knows_the_labels_of_both_public_sets():
    bank = load_bank("breast-zh")
    for value in ("benign", "malignant", "normal"):
        assert len(bank.classes_of({"pathology": value})) == 1


def test_the_chest_bank_has_the_14_findings_and_no_finding():
    bank = load_bank("chest-en")
    assert len(bank.classes) == 15
    assert bank.classes_of({"findings": "Edema|Hernia"}) == (9, 13)


def test_the_phantoms_bank_knows_every_kind_of_lesion():
    bank = load_bank("phantom-zh")
    kinds = ("cyst", "benign_solid", "malignant_solid", "calcified")
    found = [bank.classes_of({"kind": kind, "finding": "1"}) for kind in kinds]
    assert found == [(0,), (1,), (2,), (3,)]
    assert bank.classes_of({"finding": "0"}) == (4,)


def test_lines_of_one_category_are_one_class(tmp_path):
    rows = [
        {"category": "囊肿", "description": "无回声。", "value": "cyst", "label": "kind"},
        {"category": "结节", "description": "等回声，\u2028边缘\x85光滑。"},
        {"category": "囊肿", "description": "后方增强。", "language": "zh"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    bank = load_bank(str(path))
    assert bank.names == ("囊肿", "结节")
    assert bank.classes[0].descriptions == ("无回声。", "后方增强。")
    assert bank.classes_of({"kind": "cyst"}) == (0,)


def test_a_list_of_names_is_a_bank(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("囊肿\n\n 结节 \n", "utf-8")
    assert load_bank(str(path)).names == ("囊肿", "结节")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.toml", "label = 1\n[[classes]]".encode("gb18030"), "label: .* string"),
        ("a.toml", '[[classes]]\nname="结节"'.encode("gb18030"), r"not UTF-8 \(byte \d+\)"),
        ("a.toml", b"[[classes]\n", "is no TOML"),
        ("a.jsonl", b"{", "line 1 is no JSON"),
        ("a.jsonl", b'{"category": "a"}', "line 1 lacks category or description"),
        ("a.jsonl", b'{"category": "a", "text": "b"}', r"line 1 is not understood \(text\)"),
        ("a.jsonl", b'{"category": "a", "description": ""}', "1 class; "),
        ("a.csv", b"", "use one of birads-en, .* or a file that ends in .toml, .jsonl, .txt"),
    ],
)
def test_what_is_no_bank_is_refused_in_one_line(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_bank(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"'none\.toml' cannot be read \(No such file"):
        load_bank("none.toml")
