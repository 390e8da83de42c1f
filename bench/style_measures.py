"""Measures the style of the sources, and keeps the table in docs/development.md in step.

`python bench/style_measures.py [--write | --check]`

It reads the syntax trees of the four packages, imports nothing of them and takes half a second on
one core. A name is public where neither it nor a class around it begins with an underscore;
functions inside functions are not counted, nor are methods like `__len__`. The page holds the table
between two markers. `--write` makes it anew. `--check`, which a unit test calls, accepts a table
that is a little old, so that not every change of a line has to touch the page: counts may be 10 %
or 10 off, shares 3 points.
"""

import argparse
import ast
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "development.md"
PACKAGES = {
    "sonoray": "platform",
    "llava_ultra": "model",
    "sonoray_serve": "serve",
    "sonoray_jobs": "jobs",
}
HEAD = (
    "package",
    "modules",
    "median lines",
    "longest",
    "public names with a docstring",
    "with Args, Returns or Raises, where there are parameters",
    "annotated parameters",
    "test lines to source lines",
)
COUNT_SLACK, SHARE_SLACK = 10.0, 3.0
_BLOCK = re.compile(r"(<!-- style measures -->\n).*?(<!-- end -->)", re.DOTALL)
_SECTION = re.compile(r"^\s*(?:Args|Returns|Raises|Yields):\s*$", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(kw_only=True, slots=True)
class Share:
    """How many of how many."""

    part: int = 0
    whole: int = 0

    def add(self, *, holds: bool) -> None:
        """Count one more."""
        self.whole += 1
        self.part += holds

    @property
    def percent(self) -> float:
        """The share in percent, 100 where nothing was counted."""
        return 100 * self.part / self.whole if self.whole else 100.0


class Measures:
    """What is counted over a set of modules."""

    def __init__(self) -> None:
        self.lines: list[int] = []
        self.test_lines = 0
        self.documented, self.sections, self.annotated = Share(), Share(), Share()

    def add_module(self, text: str) -> None:
        """Count one module's source."""
        tree = ast.parse(text)
        self.lines.append(text.count("\n"))
        for node in public_nodes(tree.body):
            docstring = ast.get_docstring(node)
            self.documented.add(holds=docstring is not None)
            if isinstance(node, Function) and docstring is not None and own_parameters(node):
                self.sections.add(holds=_SECTION.search(docstring) is not None)
        for node in ast.walk(tree):
            if isinstance(node, Function):
                for parameter in own_parameters(node):
                    self.annotated.add(holds=parameter.annotation is not None)

    def row(self, name: str) -> tuple[str, ...]:
        """The table's row of these modules."""
        return (
            name,
            str(len(self.lines)),
            f"{statistics.median(self.lines):.0f}",
            str(max(self.lines)),
            *(f"{s.percent:.0f} %" for s in (self.documented, self.sections, self.annotated)),
            f"{self.test_lines / sum(self.lines):.2f}",
        )


def main() -> None:
    """Print the table, write it into the page, or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="make the page's table anew")
    action.add_argument("--check", action="store_true", help="fail where the page is out of step")
    given = parser.parse_args()
    rows = measure(ROOT)
    page = PAGE.read_text(encoding="utf-8")
    if given.check:
        if problems := differences(rows_of(page), rows):
            sys.exit(
                f"error: docs/{PAGE.name} is out of step ({'; '.join(problems)}); run: "
                "python bench/style_measures.py --write"
            )
    elif given.write:
        PAGE.write_text(fill_page(page, rows), encoding="utf-8")
    else:
        print("\n".join(table(rows)))


def measure(root: Path) -> list[tuple[str, ...]]:
    """Measure the packages below `root`, one row each, and all of them together.

    Args:
        root: the repository.

    Returns:
        Rows in the order of `HEAD`.
    """
    total, rows = Measures(), []
    for package, source_root in PACKAGES.items():
        own = Measures()
        for path in sorted((root / source_root / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if path.name != "__init__.py" or text.count("\n") > 1:
                own.add_module(text)
                total.add_module(text)
        own.test_lines = count_lines(root / "tests" / "unit" / package)
        rows.append(own.row(f"`{package}`"))
    total.test_lines = count_lines(root / "tests")
    return [*rows, total.row("all, with the tests of several packages")]


def count_lines(folder: Path) -> int:
    """Lines of all modules below a folder."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in folder.rglob("*.py"))


def public_nodes(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Yield the public functions and classes of a module, and the public methods of the latter."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if "overload" not in [getattr(each, "id", "") for each in node.decorator_list]:
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public_nodes(node.body)


def own_parameters(node: Function) -> list[ast.arg]:
    """The parameters of a function without `self` and `cls`."""
    given = node.args
    rest = [each for each in (given.vararg, given.kwarg) if each is not None]
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs, *rest]
    return [each for each in found if each.arg not in ("self", "cls")]


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows)]


def fill_page(text: str, rows: list[tuple[str, ...]]) -> str:
    """Return a page with the table between its markers made anew."""
    lines = "\n".join(["", *table(rows), "", ""])
    return _BLOCK.sub(lambda match: match[1] + lines + match[2], text)


def rows_of(text: str) -> list[tuple[str, ...]]:
    """Read the rows of the table that a page holds.

    Raises:
        ValueError: the page has no markers.
    """
    block = _BLOCK.search(text)
    if block is None:
        raise ValueError("docs/development.md has no table between its markers; put them back")
    lines = [line.strip("| ") for line in block[0].splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.split("|")) for line in lines[2:]]


def differences(old: list[tuple[str, ...]], new: list[tuple[str, ...]]) -> list[str]:
    """Say where two tables differ by more than the tolerance, one text for each value."""
    if [row[0] for row in old] != [row[0] for row in new]:
        return ["the rows are others"]
    found = []
    for before, now in zip(old, new, strict=True):
        for name, one, two in zip(HEAD[1:], before[1:], now[1:], strict=True):
            first, second = (float(value.removesuffix("%")) for value in (one, two))
            if one.endswith("%"):
                slack = SHARE_SLACK
            elif "." in two:
                slack = 0.1 * second
            else:
                slack = max(COUNT_SLACK, 0.1 * second)
            if abs(first - second) > slack:
                found.append(f"{now[0]}, {name}: {one}, now {two}")
    return found


if __name__ == "__main__":
    main()
