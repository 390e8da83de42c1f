"""The page of hand-made values, whose every text is hostile."""

import base64
from html.parser import HTMLParser

import pytest

from sonoray.audit.page import render_page
from sonoray.study.contract import SPLITS

EVIL = '</td><script>alert("1")</script>&{{ 7 * 7 }}\'乳'
VOID = {"meta", "img"}


def by_split(number):
    return dict.fromkeys(SPLITS, number)


def values(evil=EVIL, **changes):
    split = {"patients": 1, "studies": 2, "images": 3, "unique_images": 3}
    link = {
        "kind": evil, "splits": [evil, "test"], "num_patients": 2, "distance": 7,
        "studies": [f"{evil}{n:0>20}" for n in range(3)], "num_studies": 5, "images": [],
    }  # fmt: skip
    conflict = {
        "exact": True, "kind": evil, "name": evil, "values": [evil, "b"], "studies": ["s1", "s2"],
    }  # fmt: skip
    contradiction = {
        "label": evil, "value": evil, "terms": [evil, "t"], "place": evil, "study_id": evil,
        "text": evil,
    }  # fmt: skip
    return {
        "dataset": evil,
        "path": evil,
        "rule": "hashes that differ in at most 24 of 256 bits",
        "against": {
            "dataset": evil, "rule": evil, "images": 9, "shared": 2, "exact": 1, "patients": 5,
            "sharing": 2, "same_patients": 0,
            "rows": [
                {
                    "exact": True, "distance": 7, "splits": [evil], "other_splits": [evil],
                    "studies": [evil], "files": [evil],
                }
            ],
        },
        "findings": [{"kind": "texts", "serious": True, "message": evil}],
        "accounting": {
            name: {"seen": 9, "kept": 6, "duplicate": 1, "quarantined": 2}
            for name in ("studies", "images")
        },
        "reasons": {evil: 4},
        "splits": dict.fromkeys(SPLITS, split),
        "masks": {"images": 1234567, "empty": 1},
        "labels": [
            {"name": evil, "of_images": False, "num_values": 1, "values": {evil: by_split(1)}}
        ],
        "topics": [
            {
                "topic": evil, "tasks": [evil], "questions": by_split(4), "distinct": 2,
                "repeated_share": 0.5, "constant_share": by_split(0.25), "seen_share": by_split(1),
                "top": [{"text": evil, "share": 0.75}, {"text": None, "share": 0.1}],
            }
        ],
        "leakage": {"counts": {"patient": 1, "image": 0}, "rows": [link]},
        "duplicates": {
            "counts": {
                "image": {"within": 1, "between": 2}, "near duplicate": {"within": 3, "between": 4},
            },
            "rows": [link],
        },
        "conflicts": {"counts": {"exact": 11, "near": 12}, "rows": [conflict]},
        "contradictions": {
            "labels": [{"label": evil, "studies": 5, "found": 1}],
            "unchecked": {evil: [evil, "u"]},
            "rows": [contradiction],
        },
        **changes,
    }  # fmt: skip


class Elements(HTMLParser):
    """The elements of a page, and its texts by the element that holds them."""

    def __init__(self, page):
        super().__init__()
        self.names, self.texts, self.attributes, self._open = [], [], [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1], data))


@pytest.fixture
def pictures(tmp_path):
    for name in ("overview", "sheet"):
        (tmp_path / name).write_bytes(f"png of the {name}".encode())
    return tmp_path / "overview", tmp_path / "sheet"


def test_hostile_texts_stay_texts(pictures):
    evil = Elements(render_page(values(), *pictures, {"s1 s2": b"png"}))
    tame = Elements(render_page(values("x"), *pictures, {"s1 s2": b"png"}))
    assert "script" not in evil.names
    assert evil.names == tame.names
    shown = [text.replace(EVIL, "x") for _, text in evil.texts]
    wanted = [text for _, text in tame.texts]
    code = [place for place, (kind, _) in enumerate(evil.texts) if kind == "code"]
    assert [t for n, t in enumerate(shown) if n not in code] == [
        t for n, t in enumerate(wanted) if n not in code
    ]
    assert sum(EVIL in text for _, text in evil.texts) >= 25
    assert "49" not in [text for _, text in evil.texts]


def test_ids_are_short_and_whole_in_their_title(pictures):
    page = Elements(render_page(values("a"), *pictures, {}))
    assert ("code", "a00000000000") in page.texts
    assert ("title", f"a{1:0>20}") in page.attributes
    assert ("td", " and 2 more") in page.texts


def test_pictures_are_in_the_page(pictures):
    page = Elements(render_page(values(), *pictures, {"s1 s2": b"shared"}))
    head = "data:image/png;base64,"
    sources = [value.removeprefix(head) for name, value in page.attributes if name == "src"]
    assert list(map(base64.b64decode, sources)) == [
        b"png of the overview", b"shared", b"png of the sheet",
    ]  # fmt: skip


def test_numbers_are_aligned_and_grouped(pictures):
    page = render_page(values("x"), *pictures, {})
    assert "<b>1,234,566</b><span>images with a mask</span>" in page
    assert '<th class="number">within one patient</th>' in page
    assert "<tr><td>near duplicates</td>" in page
    assert '<td class="number">25%</td>' in page


def test_what_was_not_found_is_said_and_has_no_table(pictures):
    nothing = {"counts": {"patient": 0}, "rows": []}
    clean = values(
        "x",
        findings=[],
        reasons={},
        topics=[],
        leakage=nothing,
        duplicates={"counts": {"image": {"within": 0, "between": 0}}, "rows": []},
        conflicts={"counts": {"exact": 0, "near": 0}, "rows": []},
        against={**values("x")["against"], "dataset": "y", "shared": 0, "rows": []},
        contradictions={
            "labels": [{"label": "y", "studies": 5, "found": 0}], "unchecked": {}, "rows": [],
        },
    )  # fmt: skip
    page = Elements(render_page(clean, *pictures, {}))
    messages = [text for kind, text in page.texts if kind == "li"]
    assert messages == [
        "no patient, image or near duplicate is in two splits (hashes that differ in at most 24 of "
        "256 bits)",
        "no image of y is here (hashes that differ in at most 24 of 256 bits)",
        "no text names another value than its label (y)",
        "no picture has two labels or two answers to one question",
    ]
    assert page.names.count("table") == 7
    headings = [text for kind, text in page.texts if kind == "h3"]
    assert headings == ["What became of what ingest saw"]
