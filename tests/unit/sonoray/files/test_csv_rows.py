"""Every cell stands under the name of its column, or the file is refused in one line."""

import pytest

from sonoray.errors import DataError
from sonoray.files.csv_rows import read_csv_rows


def written(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_known_by_their_line(tmp_path):
    rows, header = read_csv_rows(written(tmp_path, '\ufeffa,b\n\n1,"2\n3"\n4,\n'))
    assert header == ["a", "b"]
    assert rows == {4: {"a": "1", "b": "2\n3"}, 5: {"a": "4", "b": ""}}
    assert read_csv_rows(written(tmp_path, "")) == ({}, [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Li,b,Li\n1,2,3\n", "line 1 has one name for the columns 1 and 3; give each its own"),
        (",a\n0,Li\n", "line 1 has a column without a name; name it, or write the table without"),
        ("a,b\n1,Li\n1,Li,Wang\n", "line 3 has 3 cells and line 1 has 2; correct it, and quote"),
        ("a,b\n1\n", "line 2 has 1 cells and line 1 has 2"),
    ],
)
def test_what_is_ambiguous_is_refused_without_a_cells_text(tmp_path, text, told):
    with pytest.raises(DataError, match=told) as caught:
        read_csv_rows(written(tmp_path, text))
    assert "Li" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.csv' cannot be read .*; give a UTF-8 CSV"):
        read_csv_rows(tmp_path / "gone.csv")
    (tmp_path / "g.csv").write_bytes("a,b\n乳腺,1\n".encode("gb18030"))
    with pytest.raises(DataError, match=r"g.csv' cannot be read .*; give a UTF-8 CSV"):
        read_csv_rows(tmp_path / "g.csv")
