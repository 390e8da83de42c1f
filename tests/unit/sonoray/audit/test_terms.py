import csv
import json
from collections import Counter
from dataclasses import replace

import pytest

from sonoray.audit.terms import CAPTION, LABEL_TERMS, TermCheck, contradictions
from sonoray.ingest.published.busbra import BIRADS, HISTOLOGY, PATHOLOGY, BusBraSource
from sonoray.phantom import PhantomConfig, plan_study
from sonoray.phantom.cohort import study_labels
from sonoray.study.contract import Study, StudyImage, Turn

OTHER = {
    "pathology": {"benign": "malignant", "malignant": "benign"},
    "side": {"left": "right", "right": "left"},
    "margin": {"smooth": "spiculated", "spiculated": "smooth"},
    "calcification": {"0": "1", "1": "0"},
    "finding": {"0": "1", "1": "0"},
    "organ": {"thyroid": "breast", "breast": "liver", "liver": "thyroid"},
    "echogenicity": {
        "anechoic": "hypoechoic", "hypoechoic": "isoechoic",
        "isoechoic": "hyperechoic", "hyperechoic": "anechoic",
    },
    "posterior": {"shadow": "enhancement", "enhancement": "shadow"},
    "kind": {
        "cyst": "benign_solid", "benign_solid": "malignant_solid",
        "malignant_solid": "calcified", "calcified": "cyst",
    },
}  # fmt: skip


def study_of(labels, *texts, captions=(), image_labels=None):
    return Study(
        study_id="s", patient_key="p", split="train", dataset="d", labels=labels,
        turns=tuple(Turn(question="?", answer=text, topic="report") for text in texts),
        images=tuple(
            StudyImage(
                image_id=str(number), uri="", width=1, height=1,
                labels={CAPTION: text, **(image_labels or {})},
            )
            for number, text in enumerate(captions)
        ),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["zh", "en"])
def phantoms(request):
    config = PhantomConfig(language=request.param)
    plans = [plan_study(config, patient) for patient in range(300)]
    return [
        Study(
            study_id=plan.ref, patient_key="p", split="train", dataset="phantom",
            labels=study_labels(plan), turns=plan.turns,
            images=tuple(
                StudyImage(
                    image_id=str(number), uri="", width=1, height=1,
                    labels={
                        CAPTION: view.caption,
                        "shows_finding": "0" if view.section is None else "1",
                        "side": view.side.value,
                    },
                )
                for number, view in enumerate(plan.views)
            ),
        )
        for plan in plans
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "text", "named"),
    [
        ("pathology", "提示病变可能为恶性，建议活检。", {"malignant", "恶性"}),
        ("pathology", "考虑良性病变。", {"benign", "良性"}),
        ("pathology", "需进一步鉴别良恶性。", {"benign", "malignant", "良性", "恶性"}),
        ("pathology", "建议穿刺以排除恶性病变可能。", set()),
        ("pathology", "未见恶性征象，考虑良性。", {"benign", "良性"}),
        ("pathology", "浸润性导管癌", {"malignant", "恶性"}),
        ("histology", "导管增生", {"ductal hyperplasia"}),
        ("histology", "双侧乳腺增生", set()),
        ("birads", "ＢＩ－ＲＡＤＳ　４ａ类", {"4", "4a"}),
        ("side", "左叶见结节", {"left", "左侧"}),
        ("side", "双侧乳腺", {"left", "right", "左侧", "右侧"}),
        ("side", "大小约3毫米左右", set()),
        ("organ", "肝肾回声对比增强", {"liver", "肝脏", "kidney", "肾脏"}),
        ("echogenicity", "见无回声区", {"anechoic", "无回声"}),
        ("echogenicity", "后方无回声增强", set()),
        ("margin", "包膜光滑，边缘毛刺", {"spiculated"}),
        ("calcification", "未见明显钙化及液化", {"0"}),
        ("calcification", "内见钙化", {"1"}),
        ("calcification", "未见血流，内见钙化", {"1"}),
        ("finding", "未见占位性病变", {"0"}),
        ("posterior", "后方未见声影", {"none"}),
        ("pathology", "Most likely malignant.", {"malignant", "恶性"}),
        ("side", "The left lobe of the thyroid.", {"left", "左侧"}),
        ("side", "A cleft in the bright area.", set()),
        ("organ", "The gallbladder is empty.", {"gallbladder", "胆囊"}),
        ("calcification", "A margin without calcifications.", {"0"}),
        ("calcification", "No shadow. Calcified rim.", {"1"}),
        ("finding", "A notable nodule of 3.5 mm", {"1"}),
    ],
)
def test_what_a_text_names(label, text, named):
    assert set(LABEL_TERMS[label].named(text)) == named


def test_the_terms_that_contradict_are_named():
    (found,) = contradictions(study_of({"calcification": "1"}, "内未见钙化。"))
    assert (found.label, found.value, found.terms) == ("calcification", "1", ("no 钙化",))
    assert (found.place, found.text) == ("answer: report", "内未见钙化。")
    assert "内未见" not in repr(found)


def test_a_text_that_names_the_label_too_or_nothing_does_not_contradict():
    for text in ("良性或恶性。", "低回声结节。", ""):
        assert contradictions(study_of({"pathology": "benign"}, text)) == []


def test_an_unknown_label_or_value_says_nothing():
    labels = {"pathology": "unclear", "device": "恶性", "size_mm": "3"}
    assert contradictions(study_of(labels, "恶性")) == []


def test_a_caption_is_held_to_its_image_first():
    labels = {"side": "left", "finding": "1"}
    plain = {"side": "right", "shows_finding": "0"}
    caption = "右侧乳腺未见病灶。"
    assert contradictions(study_of(labels, captions=[caption], image_labels=plain)) == []
    assert [each.label for each in contradictions(study_of(labels, captions=[caption]))] == [
        "side"
    ]  # an image without a lesion says nothing of the study, but its side does
    showing = {"side": "right", "shows_finding": "1"}
    found = contradictions(study_of(labels, captions=[caption], image_labels=showing))
    assert [each.label for each in found] == ["shows_finding"]


def test_the_phantom_never_contradicts_itself(phantoms):
    check = TermCheck(max_listed=5)
    for study in phantoms:
        check.add(study)
    assert sum(check.num_found.values()) == 0
    assert set(check.checked) == set(OTHER) | {"site", "shows_finding"}
    assert check.checked["organ"] == 300
    assert check.unchecked == {}


@pytest.mark.parametrize("label", OTHER)
def test_every_flipped_label_of_the_phantom_is_found(phantoms, label):
    flipped = 0
    for study in phantoms:
        value = study.labels.get(label)
        if value not in OTHER[label]:
            continue
        planted = replace(study, labels={**study.labels, label: OTHER[label][value]})
        assert label in {each.label for each in contradictions(planted)}, study.turns
        flipped += 1
    assert flipped > 50


def test_bus_bra_never_contradicts_itself(tmp_path):
    header = "ID,Case,Histology,Pathology,BIRADS,Device,Side"
    rows = [
        f"bus_{n}-{side},{n},{histology},{pathology},{birads},GE,{side}"
        for n, (histology, pathology, birads) in enumerate(
            (histology, pathology, birads)
            for histology in HISTOLOGY
            for pathology in PATHOLOGY
            for birads in BIRADS
        )
        for side in (["left", "right"] if n % 3 else ["single"])
        if ("癌" in HISTOLOGY[histology]) <= (pathology == "malignant")
    ]
    (tmp_path / "bus_data.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "images").mkdir()
    for row in rows:
        (tmp_path / "images" / f"{row.partition(',')[0]}.png").write_bytes(b"x")
    check = TermCheck(max_listed=5)
    for raw in BusBraSource(tmp_path).iter_studies():
        assert not raw.problem
        images = tuple(
            StudyImage(image_id=each.ref, uri="", width=1, height=1, labels=each.labels)
            for each in raw.images
        )
        check.add(
            Study(
                study_id=raw.ref,
                patient_key="p",
                split="test",
                dataset="busbra",
                labels=raw.labels,
                turns=raw.turns,
                images=images,
            )
        )
    assert set(check.checked) == {"pathology", "birads", "histology"}
    assert not [check.num_found[label] for label in check.checked if check.num_found[label]]
    assert "single" in check.unchecked["side"]


def test_listing_is_bounded_and_counting_is_not():
    check = TermCheck(max_listed=2)
    for _ in range(5):
        check.add(study_of({"pathology": "benign"}, "恶性。", "癌。"))
    assert check.num_found["pathology"] == 5
    assert len(list(check.listed)) == 2


def test_a_third_of_the_machine_written_captions_that_name_a_pathology_name_the_wrong_one(
    shared_data,
):
    with (shared_data("busbra") / "bus_data.csv").open() as file:
        pathology = {row["ID"]: row["Pathology"] for row in csv.DictReader(file)}
    captions = json.loads((shared_data("zh_captions_llava") / "busbra.json").read_text())
    counts: Counter[str] = Counter()
    for each in captions:
        study = study_of({"pathology": pathology[each["id"]]}, each["description"])
        named = LABEL_TERMS["pathology"].named(each["description"])
        counts["wrong" if contradictions(study) else "right" if named else "silent"] += 1
    assert counts == {"silent": 799, "right": 251, "wrong": 124}


@pytest.mark.parametrize(
    ("name", "organ"), [("Mammary", "breast"), ("Thyroid", "thyroid"), ("Liver", "liver")]
)
def test_no_real_report_is_said_to_be_of_another_organ(name, organ, shared_data):
    path = shared_data("usreport_zh") / f"{name}_trainval.json"
    splits = json.loads(path.read_text())
    texts = [report["finding"] for split in splits.values() for report in split]
    assert len(texts) > 1000
    assert not [text for text in texts if contradictions(study_of({"organ": organ}, text))]
