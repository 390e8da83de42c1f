import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonoray.errors import DataError
from sonoray.files.text_files import read_text
from sonoray.images.decode import RejectedImageError
from sonoray.ingest.sources.inputs import (
    Item,
    digest_files,
    find_file,
    find_files,
    load_image,
    read_csv,
    read_items,
    read_json,
)

CHINESE = "甲状腺大小形态如常，腺体回声均匀。"


class Pair(Item):
    name: str
    size: int


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "a/../../secret.png",
        "/etc/passwd",
        "..\\secret.png",
        "C:\\secret.png",
        "c:secret.png",
        "\\\\host\\share\\secret.png",
        "a/..",
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "images" / "a").mkdir(parents=True)
    with pytest.raises(RejectedImageError, match=r"outside_folder: .* leads out") as caught:
        find_file(tmp_path / "images", name)
    assert caught.value.reason == "outside_folder"


@pytest.mark.parametrize("name", ["", ".", "a", "none.png", "x" * 5000, "a\0b", "\ud800"])
def test_a_name_without_a_file_is_missing(tmp_path, name):
    (tmp_path / "a").mkdir()
    with pytest.raises(RejectedImageError, match=r"^missing_file:"):
        find_file(tmp_path, name)


@given(st.text())
def test_whatever_the_name_is_nothing_outside_is_found(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "inner"
    folder.mkdir(exist_ok=True)
    (folder.parent / "outer").write_bytes(b"x")
    with pytest.raises(RejectedImageError):
        find_file(folder, name)


def test_files_are_found_below_the_folder_and_through_its_own_links(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.png").write_bytes(b"linked")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "b c.png").write_bytes(b"x")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "store" / "1.png")
    folder = tmp_path / "images"
    for name in ("a\\b c.png", "./a/b c.png"):
        assert load_image(folder, name).data.read_bytes() == b"x"
    linked = load_image(folder, "link.png", labels={"caption": "c"})
    assert (linked.data.read_bytes(), linked.labels) == (b"linked", {"caption": "c"})
    assert list(find_files(folder, ["link.png", "no.png", "../x", "link.png"])) == ["link.png"]


def test_texts_are_read_in_both_encodings(tmp_path, caplog):
    path = tmp_path / "t.csv"
    for encoding in ("utf-8", "utf-8-sig", "gb18030"):
        path.write_bytes(CHINESE.encode(encoding))
        with caplog.at_level(logging.INFO):
            assert read_text(path) == CHINESE
    assert caplog.messages == ["t.csv is not UTF-8; read as GB18030"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        ("病人".encode("utf-16"), r"neither UTF-8 \(byte 0\) nor GB18030 \(byte 0\)"),
        (b"\xff\xfe\x00a", "not readable: no text, or one in UTF-16; save it as UTF-8"),
        (
            "study,病人".encode("utf-16-le"),
            "not readable: no text, or one in UTF-16; save it as UTF-8",
        ),
        ("甲狀腺左葉低回聲結節".encode("big5"), "that no text has"),
        (CHINESE.encode().replace("大".encode(), b"\xe5\xa4"), "UTF-8, but damaged at byte 9"),
    ],
    ids=["nothing", "blank", "utf-16", "binary", "utf-16 unmarked", "big5", "damaged"],
)
def test_a_text_that_cannot_be_read_is_one_clear_error(tmp_path, data, message):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_text(path)
    with pytest.raises(DataError, match="no file"):
        read_text(path / "below")
    with pytest.raises(DataError, match="not readable"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON: .* in line 1, column 2"),
        ("[" * 100_000, "nests too deeply"),
        ("{}", "holds dict; expected is a JSON list"),
        ("[]", "an empty list"),
    ],
)
def test_a_file_that_is_no_list_of_items_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_items(path, Pair)
    assert "\n" not in str(caught.value)


def test_a_malformed_item_says_where_and_what_and_quotes_nothing(tmp_path):
    values = [
        {"name": "a", "size": 1, "more": None},
        {"name": "secret"},
        {"name": "secret", "size": "secret"},
        "secret",
        None,
        {"name": "\ud800", "size": 1},
    ]
    (tmp_path / "t.json").write_text(json.dumps(values))
    lines = "\n".join(map(json.dumps, values)) + "\n{secret\n" + "[" * 100_000
    (tmp_path / "t.jsonl").write_text(lines)
    items = read_items(tmp_path / "t.json", Pair)
    rows = read_items(tmp_path / "t.jsonl", Pair)
    assert items[0].value == rows[0].value == Pair(name="a", size=1)
    assert [item.ref for item in items[:2]] == ["t.json[0]", "t.json[1]"]
    assert items[1].problem == "malformed_item: t.json[1]: size: Field required"
    assert rows[2].problem.startswith(
        "malformed_item: t.jsonl:3: size: Input should be a valid int"
    )
    assert [item.value for item in items[1:]] == [None] * 5
    assert [row.value for row in rows[1:]] == [None] * 7
    for entry in (*items[1:], *rows[1:]):
        assert entry.problem.startswith("malformed_item: t.json")
        assert "secret" not in entry.problem


def test_json_of_any_shape_is_read_and_line_ends_of_texts_stay(tmp_path):
    (tmp_path / "t.json").write_bytes('{"a": "一\\u2028二"}'.encode("gb18030"))
    assert read_json(tmp_path / "t.json") == {"a": "一\u2028二"}
    (tmp_path / "t.jsonl").write_text('{"name": "一\u2028二", "size": 1}\r\n', encoding="utf-8")
    assert [row.value.name for row in read_items(tmp_path / "t.jsonl", Pair)] == ["一\u2028二"]


def test_rows_keep_their_line_and_their_quoted_line_breaks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a, b\n1,"two\nlines"\n\n,\n3\n4,5,6\n', newline="")
    entries = read_csv(path, ["a", "b"])
    assert [entry.ref for entry in entries] == ["t.csv:3", "t.csv:6", "t.csv:7"]
    assert entries[0].value == {"a": "1", "b": "two\nlines"}
    assert entries[1].value == {"a": "3"}
    assert [entry.problem for entry in entries[1:]] == [
        "malformed_row: t.csv:6 has 1 fields, its header 2; correct it",
        "malformed_row: t.csv:7 has 3 fields, its header 2; correct it",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "has no rows"),
        ("a b\n1 2\n", "lacks the columns a, b; its first line has a b"),
        ("a,b,a\n1,2,3\n", "has the columns a twice"),
        ('a,b\n1,"2\n', "not readable as CSV: unexpected end of data"),
        ("a,b\n1," + "x" * 200_000, "not readable as CSV: field larger"),
    ],
    ids=["no-rows", "columns", "twice", "quote", "long"],
)
def test_a_table_that_cannot_be_read_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(path, ["a", "b"])


def test_the_digest_follows_names_contents_and_order(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("a")
    second.write_text("b")
    digests = {digest_files({"1": first, "2": second}), digest_files({"2": second, "1": first})}
    digests |= {digest_files({"x": first, "2": second}), digest_files({"1": tmp_path / "gone"})}
    first.write_text("c")
    digests.add(digest_files({"1": first, "2": second}))
    assert len(digests) == 5


def test_of_an_image_that_is_too_large_the_size_alone_counts(tmp_path):
    table, image = tmp_path / "t", tmp_path / "i"

    def digest(content, max_bytes=4):
        table.write_bytes(content)
        image.write_bytes(content)
        return digest_files({}, ({"i": image}, max_bytes))

    assert digest(b"aaaaa") == digest(b"bbbbb") != digest(b"bbbbbb")
    assert digest(b"aaaa") != digest(b"bbbb")
    assert digest(b"aaaaa", 5) != digest(b"bbbbb", 5) != digest(b"bbbbb", 4)
    large = {digest_files({"t": table}) for _ in map(digest, (b"aaaaa", b"bbbbb"))}
    assert len(large) == 2  # a table is read whatever its size


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_text(separator.join(["study", "patient"]) + "\n" + separator.join("ab"))
    with pytest.raises(DataError, match=r"separates its columns with .*; save it with ','"):
        read_csv(path, ("study",))
