import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray.phantom import PhantomConfig, build_study, iter_phantom, plan_study, render_view
from sonoray.phantom.anatomy import PRESETS, Organ
from sonoray.phantom.cohort import study_labels
from sonoray.phantom.language import WORDINGS
from sonoray.phantom.lesion import Echogenicity, Kind, Margin, Side, SizeClass
from sonoray.phantom.physics import NUM_BEAMS, NUM_DEPTHS, scan_convert
from sonoray.study.contract import Task
from sonoray.study.near_duplicates import group_near_duplicates, perceptual_hash

SMALL = PhantomConfig(num_patients=6, images=(2, 4), image_size=64)
PLANS = [plan_study(PhantomConfig(), patient) for patient in range(1500)]


def pixels_of(study):
    return [(image.data.tobytes(), image.mask.tobytes()) for image in study.images]


def facts(study):
    captions = [dict(image.labels) for image in study.images]
    return study.ref, study.labels, study.turns, captions, pixels_of(study)


def test_the_same_config_gives_the_same_bytes():
    first, second = (list(iter_phantom(SMALL)) for _ in range(2))
    assert [facts(study) for study in first] == [facts(study) for study in second]


def test_a_study_does_not_depend_on_how_many_are_generated():
    more = SMALL.model_copy(update={"num_patients": 1000, "studies_per_patient": 3})
    assert facts(build_study(more, plan_study(more, 4))) == facts(list(iter_phantom(SMALL))[4])


def test_another_seed_gives_other_studies():
    other = SMALL.model_copy(update={"seed": 1})
    for here, there in zip(iter_phantom(SMALL), iter_phantom(other), strict=True):
        assert set(pixels_of(here)).isdisjoint(pixels_of(there))


def test_repeat_examinations_show_the_same_lesion_in_new_images():
    config = PhantomConfig(
        num_patients=3,
        studies_per_patient=2,
        images=(2, 3),
        image_size=64,
        fraction_without_finding=0,
    )
    studies = list(iter_phantom(config))
    assert [study.patient_ref for study in studies] == [
        f"patient-{patient:06d}" for patient in (0, 0, 1, 1, 2, 2)
    ]
    assert len({study.ref for study in studies}) == 6
    for first, second in zip(studies[::2], studies[1::2], strict=True):
        assert first.labels == second.labels
        assert set(pixels_of(first)).isdisjoint(pixels_of(second))


def test_images_have_the_documented_form_and_masks_mark_the_finding():
    for study in iter_phantom(SMALL):
        assert 2 <= len(study.images) <= 4
        assert len({image.ref for image in study.images}) == len(study.images)
        for image in study.images:
            assert image.data.shape == image.mask.shape == (64, 64)
            assert image.data.dtype == image.mask.dtype == np.uint8
            assert set(np.unique(image.mask)) <= {0, 128, 255}
            assert image.mask.any() == (image.labels["shows_finding"] == "1")
            spacing_mm = PRESETS[Organ(study.labels["organ"])].probe.side_mm / 64
            assert float(image.labels["mm_per_pixel"]) == pytest.approx(spacing_mm, abs=1e-4)


def test_only_some_images_show_the_finding_and_one_at_its_full_size():
    for plan in PLANS:
        cuts = [view for view in plan.views if view.section is not None]
        assert 3 <= len(plan.views) <= 9
        if plan.lesion is None:
            assert not cuts
            continue
        assert 1 <= len(cuts) <= len(plan.views) // 2
        assert sum(view.section.scale == 1.0 for view in cuts) == 1
        assert {view.side for view in cuts} == {plan.lesion.side}
    places = Counter(
        [view.section is not None for view in plan.views].index(True)
        for plan in PLANS
        if plan.lesion
    )
    assert places[0] < 0.5 * places.total()  # the finding does not always come first


def test_lesions_lie_inside_of_the_image_and_off_the_body_mark():
    full = np.full((NUM_DEPTHS, NUM_BEAMS), 255, np.float32)
    for plan in PLANS[:200]:
        field = scan_convert(full, PRESETS[plan.organ].probe, 64) > 0
        for index, view in enumerate(plan.views):
            if view.section is None or view.section.scale < 1:
                continue
            _, mask = render_view(SMALL, plan, index)
            assert mask.any()
            assert field[mask > 0].all()
            assert not np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1])).any()
            assert not mask[-10:, :14].any()


def test_a_cyst_is_darker_than_its_surroundings_in_the_image():
    config = PhantomConfig()
    plans = [plan for plan in PLANS if plan.lesion and plan.lesion.kind is Kind.CYST][:9]
    for plan in plans:
        index = [view.section is not None and view.section.scale == 1 for view in plan.views].index(
            True
        )
        image, mask = render_view(config, plan, index)
        section, size_mm = plan.views[index].section, plan.lesion.size_mm
        pixel_mm = PRESETS[plan.organ].probe.side_mm / 192
        rows, columns = np.nonzero(mask)
        left = int(columns.min() - 2 / pixel_mm * size_mm / 12)
        ring = image[rows.min() : rows.max(), max(left - 6, 0) : left]
        assert image[mask == 255].mean() < 0.35 * ring.mean(), (plan.ref, section)


def test_the_image_size_changes_the_sampling_and_not_the_scene():
    plan = next(plan for plan in PLANS if plan.lesion)
    large, large_mask = render_view(PhantomConfig(image_size=256), plan, 0)
    small, small_mask = render_view(PhantomConfig(image_size=128), plan, 0)
    halved = np.asarray(Image.fromarray(large).resize((128, 128), Image.Resampling.BOX))
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.9
    assert large_mask.mean() == pytest.approx(small_mask.mean(), rel=0.05)


def test_the_side_can_be_read_from_the_body_mark():
    breast = next(plan for plan in PLANS if plan.organ is Organ.BREAST)
    corners = {}
    for index, view in enumerate(breast.views):
        image, _ = render_view(PhantomConfig(), breast, index)
        corner = image[-29:, :40].astype(int)
        corners[view.side] = corner[:, :20].mean() - corner[:, 20:].mean()
    assert set(corners) == set(Side)
    assert corners[Side.RIGHT] > 50  # the patient's right is on the image's left
    assert corners[Side.LEFT] < -50


def read(words, text):
    """The one word of `words` that the text contains."""
    found = [key for key, word in words.items() if word and word in text]
    assert len(found) == 1, (text, found)
    return found[0]


SAID = {
    "zh": {
        "normal": "未见病灶",
        "impression": "提示",
        "calcified": "内见钙化",
        "size": "约{}毫米",
        "shadow": "声影",
        "enhancement": "增强",
        "side": {Side.LEFT: "左", Side.RIGHT: "右"},
    },
    "en": {
        "normal": "lesion",
        "impression": "Impression",
        "calcified": "internal calcifications",
        "size": "about {} mm",
        "shadow": "shadowing",
        "enhancement": "enhancement",
        "side": {Side.LEFT: "left", Side.RIGHT: "right"},
    },
}


@pytest.mark.parametrize("language", WORDINGS)
def test_labels_answers_report_and_captions_tell_one_truth(language):
    words, said = WORDINGS[language], SAID[language]
    config = PhantomConfig(language=language)
    for plan in (plan_study(config, patient) for patient in range(400)):
        labels = study_labels(plan)
        answers = {turn.topic: turn.answer for turn in plan.turns}
        report = answers["report"]
        assert read(words.organs, report) == labels["organ"]
        assert answers["organ"] == labels["site"] == words.organs[plan.organ]
        found = words.presence[labels["finding"] == "1"]
        assert answers.get("finding", found) == found
        if labels["finding"] == "0":
            assert plan.lesion is None
            assert said["normal"] in report
            assert answers.keys() <= {"report", "organ", "finding"}
            assert labels.keys() == {"organ", "site", "finding"}
            continue
        assert read(words.kinds, report.split(said["impression"])[1]) == labels["kind"]
        assert words.advice[Kind(labels["kind"])] == answers["recommendation"]
        assert read(words.echoes, report) == labels["echogenicity"]
        assert answers["echogenicity"] == words.echoes[Echogenicity(labels["echogenicity"])]
        assert read(words.margins, report) == labels["margin"]
        assert answers["margin"] == words.margins[Margin(labels["margin"])]
        assert (said["calcified"] in report) == (labels["calcification"] == "1")
        assert answers["calcification"] == words.presence[labels["calcification"] == "1"]
        assert answers["pathology"] == words.pathology[labels["pathology"] == "malignant"]
        assert (labels["pathology"] == "malignant") == (words.pathology[True] in report)
        assert answers["side"] == words.sides[Side(labels["side"])]
        assert read(said["side"], report) == labels["side"]
        assert answers["size"] == words.sizes[SizeClass(labels["size_class"])]
        assert said["size"].format(round(float(labels["size_mm"]))) in report
        assert (said["shadow"] in report) == (labels["posterior"] == "shadow")
        assert (said["enhancement"] in report) == (labels["posterior"] == "enhancement")
        for view in plan.views:
            assert read(words.organs, view.caption) == labels["organ"]
            assert said["side"][view.side] in view.caption
            if view.section is None:
                assert said["normal"] in view.caption
                continue
            size_mm = float(labels["size_mm"]) * view.section.scale
            assert said["size"].format(round(size_mm)) in view.caption
            assert read(words.echoes, view.caption) == labels["echogenicity"]
            assert read(words.margins, view.caption) == labels["margin"]


def test_the_language_changes_the_texts_and_nothing_else():
    chinese, english = (
        plan_study(SMALL.model_copy(update={"language": language}), 4) for language in ("zh", "en")
    )
    assert pixels_of(build_study(SMALL, chinese)) == pixels_of(build_study(SMALL, english))
    assert [turn.topic for turn in chinese.turns] == [turn.topic for turn in english.turns]
    for one, other in zip(chinese.turns, english.turns, strict=True):
        assert len(one.options) == len(other.options)
        if one.options:
            assert one.options.index(one.answer) == other.options.index(other.answer)
    texts = [text for turn in english.turns for text in (turn.question, turn.answer)]
    assert all(text.isascii() for text in texts + [view.caption for view in english.views])


def test_english_is_written_as_people_write_it():
    plans = [plan_study(PhantomConfig(language="en"), patient) for patient in range(300)]
    assert plans[3].turns[0].answer == (
        "The left lobe of the liver shows a hyperechoic lesion of about 26 mm with a spiculated "
        "margin and internal calcifications, with posterior shadowing. Impression: malignant "
        "nodule in the left lobe of the liver."
    )
    articles = {
        match for plan in plans for match in re.findall(r"\ban? [a-z]+echoic", plan.turns[0].answer)
    }
    assert articles == {"an anechoic", "an isoechoic", "a hypoechoic", "a hyperechoic"}


@pytest.mark.parametrize(("max_showing", "most"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_as_many_images_show_the_finding_as_allowed_and_never_more_than_half(max_showing, most):
    config = PhantomConfig(images=(9, 9), max_showing=max_showing, fraction_without_finding=0.0)
    counts = {
        sum(view.section is not None for view in plan_study(config, patient).views)
        for patient in range(100)
    }
    assert counts == set(range(1, most + 1))


def test_closed_questions_hold_their_answer_among_fixed_options():
    options = {}
    for plan in PLANS:
        for turn in plan.turns:
            assert (turn.task is Task.CLOSED) == bool(turn.options)
            if turn.options:
                assert turn.answer in turn.options
                assert options.setdefault(turn.topic, turn.options) == turn.options
    assert options.keys() == {
        "organ", "finding", "echogenicity", "margin", "calcification", "pathology", "side",
    }  # fmt: skip


def test_no_question_is_answered_by_its_own_text():
    answers = defaultdict(Counter)
    num_options = {}
    for plan in PLANS:
        for turn in plan.turns:
            if turn.options:
                answers[turn.question][turn.answer] += 1
                num_options[turn.question] = len(turn.options)
    bounds = {2: 0.57, 3: 0.40, 4: 0.48}
    for question, counts in answers.items():
        share = max(counts.values()) / counts.total()
        assert share < bounds[num_options[question]], (question, counts)
        assert len(counts) == num_options[question]


def test_the_vocabulary_stays_small():
    texts = [text for plan in PLANS for turn in plan.turns for text in (turn.question, turn.answer)]
    texts += [view.caption for plan in PLANS for view in plan.views]
    assert len(set("".join(texts))) < 130
    assert len({turn.question for plan in PLANS for turn in plan.turns}) == 20


def test_the_share_without_a_finding_is_as_configured():
    share = np.mean([plan.lesion is None for plan in PLANS])
    assert share == pytest.approx(0.2, abs=0.03)
    for fraction in (0.0, 1.0):
        config = PhantomConfig(fraction_without_finding=fraction)
        for patient in range(30):
            plan = plan_study(config, patient)
            assert (plan.lesion is None) == (fraction == 1.0)
            # with one possible answer there is nothing to ask
            assert "finding" not in {turn.topic for turn in plan.turns}


def test_a_single_organ_is_not_asked_for():
    plan = plan_study(PhantomConfig(organs=("liver",)), 0)
    assert plan.organ is Organ.LIVER
    assert "organ" not in {turn.topic for turn in plan.turns}


def test_patients_are_no_near_duplicates_of_each_other():
    hashes = [perceptual_hash(render_view(PhantomConfig(), plan, 0)[0]) for plan in PLANS[:60]]
    assert len(set(group_near_duplicates(hashes, 24))) == len(hashes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"images": [0, 4]}, ["images", "[0, 4]", "got 0 to 4", "[3, 9]"]),
        ({"images": [5, 3]}, ["images", "got 5 to 3"]),
        ({"images": [3, 65]}, ["images", "1 to 64", "got 3 to 65"]),
        ({"fraction_without_finding": 1.2}, ["fraction_without_finding", "1.2", "1"]),
        ({"organs": []}, ["organs", "[]", "thyroid, breast, liver"]),
        ({"organs": ["liver", "liver"]}, ["organs", "liver", "once"]),
        ({"organs": ["kidney"]}, ["organs", "kidney", "thyroid"]),
        ({"num_patients": 0}, ["num_patients", "0", "1"]),
        ({"image_size": 16}, ["image_size", "16", "64"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"sede": 1}, ["sede", "seed"]),
    ],
)
def test_a_wrong_config_is_refused_with_its_value_and_the_fix(values, words):
    with pytest.raises(ConfigError) as raised:
        validate_config(PhantomConfig, values, "phantom")
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message
