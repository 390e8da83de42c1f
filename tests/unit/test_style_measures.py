"""The table of style measures: counted rightly, and in step with the sources."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = '''"""A module."""


class Shape:
    """A shape."""

    def area(self, scale: float) -> float:
        """Return the area.

        Args:
            scale: of one side.
        """
        return scale

    def __len__(self) -> int:
        return 0

    def _inner(self, untyped):
        return untyped


def told(*values: int, by_name) -> int:
    """Return something."""

    def nested(value: int) -> int:
        return value

    return nested(sum(values))


def untold() -> None:
    pass


class _Hidden:
    def shown(self) -> None:
        pass
'''


@pytest.fixture(autouse=True)
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    yield
    sys.modules.pop("style_measures", None)


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_page_is_in_step_with_the_sources():
    from style_measures import PAGE, differences, measure, rows_of

    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    assert differences(rows, measure(ROOT)) == []


def test_public_names_sections_annotations_and_lines_are_counted(tmp_path):
    from style_measures import PACKAGES, measure

    for package, folder in PACKAGES.items():
        write(tmp_path / folder / package / "__init__.py", '"""A package."""\n')
        write(tmp_path / folder / package / "room" / "shape.py", MODULE)
        write(tmp_path / folder / package / "short.py", '"""Nothing."""\n\n')
        write(tmp_path / "tests" / "unit" / package / "test_shape.py", "\n" * 20)
    write(tmp_path / "tests" / "ray" / "test_all.py", "\n" * 8)
    first, *_, last = measure(tmp_path)
    length = MODULE.count("\n")
    # public: Shape, area, told with a docstring, untold without;
    # parameters: area's, told's two, nested's and _inner's, of which two have no annotation
    assert first == (
        "`sonoray`", "2", f"{(length + 2) / 2:.0f}", str(length), "75 %", "50 %", "60 %",
        f"{20 / (length + 2):.2f}",
    )  # fmt: skip
    assert last[1] == "8"
    assert last[-1] == f"{(4 * 20 + 8) / (4 * (length + 2)):.2f}"


def test_a_table_that_is_written_is_read_again_and_the_text_around_it_stays():
    from style_measures import HEAD, fill_page, rows_of

    page = "before\n<!-- style measures -->\nold\n<!-- end -->\nafter\n"
    rows = [("`a`", "1", "2", "3", "4 %", "5 %", "6 %", "0.70")]
    filled = fill_page(page, rows)
    assert filled.startswith("before\n<!-- style measures -->\n\n| package | modules |")
    assert filled.endswith("\n\n<!-- end -->\nafter\n")
    assert rows_of(filled) == rows
    assert len(rows[0]) == len(HEAD)
    with pytest.raises(ValueError, match="has no table"):
        rows_of("before\nafter\n")


@pytest.mark.parametrize(
    ("place", "value", "differs"),
    [
        (1, "110", False), (1, "111", True),
        (2, "132", False), (2, "133", True),
        (4, "93 %", False), (4, "92 %", True),
        (7, "0.76", False), (7, "0.79", True),
    ],
)  # fmt: skip
def test_a_table_may_be_a_little_old_and_no_older(place, value, differs):
    from style_measures import differences

    now = ("`a`", "100", "120", "400", "96 %", "50 %", "100 %", "0.70")
    old = (*now[:place], value, *now[place + 1 :])
    assert bool(differences([old], [now])) is differs


def test_other_packages_are_a_difference():
    from style_measures import differences

    assert differences([("`a`",)], [("`b`",)]) == ["the rows are others"]
