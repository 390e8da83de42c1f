"""The Chinese pages beside the English ones: the same structure, commands, code and links.

What a sentence says cannot be compared; that no section, command, setting, figure of a table's
first column or link is missing can.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRANSLATED = {
    "README.md": "README.zh.md",
    **{f"docs/{page.name}": f"docs/zh/{page.name}" for page in (ROOT / "docs" / "zh").iterdir()},
}
ENGLISH = {ROOT / chinese: ROOT / english for english, chinese in TRANSLATED.items()}
BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SENTENCE_CODE = re.compile(r"`([^`\n]+)`")


def read(page: str | Path) -> str:
    """Return the text of a page, by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return BLOCK.sub("", text)


def headings(text: str) -> list[tuple[int, str]]:
    """Return level and words of each heading, in order."""
    found = re.findall(r"^(#+) (.+)$", prose(text), re.MULTILINE)
    return [(len(marks), words) for marks, words in found]


def anchors(text: str) -> list[str]:
    """Return what a link to each heading ends with."""
    return [re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for _, words in headings(text)]


def links(page: str) -> Counter[tuple[str, int | None]]:
    """Return where a page's links lead: the English page of a pair, and which of its headings."""
    found: Counter[tuple[str, int | None]] = Counter()
    for target in LINK.findall(read(page)):
        if target.startswith("https://"):
            found[target, None] += 1
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        number = anchors(read(place)).index(anchor) if anchor else None
        found[str(ENGLISH.get(place, place).relative_to(ROOT)), number] += 1
    return found


def first_cells(text: str) -> list[list[str]]:
    """Return the code in the first cell of each row, table by table; other cells as none."""
    tables = re.findall(r"(?:^\|.*\n)+", prose(text), re.MULTILINE)
    return [
        [" ".join(SENTENCE_CODE.findall(line.split("|")[1])) for line in table.splitlines()]
        for table in tables
    ]


@pytest.fixture(params=TRANSLATED.items(), ids=lambda pair: pair[0])
def pair(request):
    """An English page and its Chinese one."""
    return request.param


def test_the_pages_for_users_are_translated():
    for name in ("README", "road", "sources", "serving", "operations"):
        english = "README.md" if name == "README" else f"docs/{name}.md"
        assert (ROOT / TRANSLATED[english]).is_file()


def test_each_page_leads_to_the_other_language_at_its_top(pair):
    for page, other in (pair, pair[::-1]):
        first = LINK.findall(read(page).splitlines()[0])
        assert [(ROOT / page).parent.joinpath(target).resolve() for target in first] == [
            ROOT / other
        ]


def test_the_headings_have_the_same_levels_in_the_same_order(pair):
    english, chinese = (headings(read(page)) for page in pair)
    assert [level for level, _ in english] == [level for level, _ in chinese]


def test_the_blocks_of_code_are_the_same_up_to_comments(pair):
    english, chinese = (
        [(kind, COMMENT.sub("", code)) for kind, code in BLOCK.findall(read(page))] for page in pair
    )
    assert english == chinese


def test_the_words_set_as_code_are_the_same(pair):
    english, chinese = (set(SENTENCE_CODE.findall(prose(read(page)))) for page in pair)
    assert english == chinese


def test_the_tables_have_the_same_first_columns_and_the_same_numbers(pair):
    english, chinese = (prose(read(page)) for page in pair)
    assert first_cells(english) == first_cells(chinese)
    rows = [re.findall(r"^\|.*$", text, re.MULTILINE) for text in (english, chinese)]
    for one, two in zip(*rows, strict=True):
        assert one.count("|") == two.count("|")
        assert Counter(re.findall(r"\d[\d.,]*\d|\d", one)) == Counter(
            re.findall(r"\d[\d.,]*\d|\d", two)
        ), one


def test_the_links_lead_to_the_same_places(pair):
    english, chinese = map(links, pair)
    swapped = Counter(
        {key: number for key, number in english.items() if key[0] not in pair or key[1] is not None}
    )
    assert swapped == Counter(
        {key: number for key, number in chinese.items() if key[0] not in pair or key[1] is not None}
    )
