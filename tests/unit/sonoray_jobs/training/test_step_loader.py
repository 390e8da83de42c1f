"""What a loader makes of the rows of a stream; Ray Data itself is met in tests/ray."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from llava_ultra.perturbations.echo import GainPerturbation
from llava_ultra.recognition.bank import BankClass, ClassBank
from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray.study.prompt import FOLLOW_UP, ProtocolQuestion, ReportProtocol
from sonoray.study.sample_order import Plan
from sonoray.study.study_index import index_studies
from sonoray_jobs.towers.feature_source import FeatureSource
from sonoray_jobs.towers.views import Views
from sonoray_jobs.training.step_loader import StepLoader, StepSource, unpack_steps

TURNS = 5
COUNTS = {"s0": 1, "s1": 3, "s2": 2}
"""Images of each study."""


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, FeatureStore]:
    """Both towers' features, every image with numbers of its own."""
    ids = [f"{study}-{number}" for study, count in COUNTS.items() for number in range(count)]
    made = {}
    for tower, channels in (("clip", 3), ("sam", 4)):
        store = FeatureStore(tmp_path, tower * 16, num_tokens=2, num_channels=channels)
        values = np.arange(len(ids) * 2 * channels).reshape(len(ids), 2, channels)
        store.write(ids, values.astype(store.dtype))
        made[tower] = store
    return made


def write(folder: Path, topic: str = "", **labels: dict[str, str]) -> None:
    studies = [
        Study(
            study_id=study,
            patient_key=study,
            split="train",
            dataset="d",
            images=tuple(
                StudyImage(image_id=f"{study}-{number}", uri="", width=8, height=8)
                for number in range(count)
            ),
            turns=tuple(
                Turn(question=f"{study}问{i}", answer=f"{study}答{i}", topic=topic)
                for i in range(TURNS)
            ),
            labels=labels.get(study, {}),
        )
        for study, count in reversed(COUNTS.items())  # the table's order is not that of the ids
    ]
    write_studies(folder, studies)


def source_of(dataset: Path, stores: dict[str, FeatureStore], **changes) -> StepSource:
    """One rank of two stages, steps of two studies and one."""

    def plan(seed, epochs):
        return Plan(
            num_studies=len(COUNTS),
            seed=seed,
            studies_per_step=1,
            epochs=epochs,
            rank=0,
            num_ranks=1,
        )

    values = {
        "index": index_studies(dataset, split="train", only={}),
        "plans": (plan(7, range(2, 4)), plan(1007, range(1))),
        "turns_per_epoch": 0,
        "site_cue": False,
    }
    features = FeatureSource(dataset=dataset, stores=stores)
    return StepSource(features=features, **{**values, **changes})


def loaded(source: StepSource):
    load = StepLoader(source)
    return [step for row in source.rows() for step in unpack_steps(source, load(row))]


def test_the_steps_of_all_plans_come_once_and_in_order(stores, tmp_path):
    write(tmp_path)
    source = source_of(tmp_path, stores)
    planned = [step for plan in source.plans for step in plan]
    assert [step.step for step in loaded(source)] == planned
    assert {len(step.studies) for step in planned} == {1}
    assert len(planned) == 9


def test_a_row_holds_as_many_steps_as_fit_it(stores, tmp_path, monkeypatch):
    write(tmp_path)
    source = source_of(tmp_path, stores)
    assert source.rows() == [{"start": 0, "stop": 9}]
    image_bytes = 2 * (3 + 4) * 2
    monkeypatch.setattr("sonoray_jobs.training.step_loader._ROW_BYTES", 2 * 2 * image_bytes)
    assert source.index.images_per_study == 2
    assert source.rows() == [
        {"start": start, "stop": min(start + 2, 9)} for start in (0, 2, 4, 6, 8)
    ]
    planned = [step for plan in source.plans for step in plan]
    assert [step.step for step in loaded(source)] == planned
    monkeypatch.setattr("sonoray_jobs.training.step_loader._ROW_BYTES", 1)
    assert len(source.rows()) == 9


def test_features_and_answers_stay_with_their_study(stores, tmp_path):
    write(tmp_path)
    names = sorted(COUNTS)
    for step in loaded(source_of(tmp_path, stores)):
        for position, place in enumerate(step.step.studies):
            study = names[place]
            ids = [f"{study}-{number}" for number in range(COUNTS[study])]
            assert np.array_equal(step.features[position].clip, stores["clip"].read(ids))
            assert np.array_equal(step.features[position].sam, stores["sam"].read(ids))
            asked = [row[1:] for row in step.rows if row[0] == position]
            assert asked == [((f"{study}问{i}",), f"{study}答{i}") for i in range(TURNS)]


def test_an_epoch_asks_its_own_turns_of_every_study(stores, tmp_path):
    write(tmp_path)
    plan = Plan(num_studies=3, seed=7, studies_per_step=3, epochs=range(TURNS), rank=0, num_ranks=1)
    steps = loaded(source_of(tmp_path, stores, plans=(plan,), turns_per_epoch=2))
    assert [len(step.rows) for step in steps] == TURNS * [2 * len(COUNTS)]
    asked = [question for step in steps for _, (question,), _ in step.rows]
    # five epochs of two in a cycle of five: each twice
    assert sorted(asked) == sorted(2 * [f"{s}问{i}" for s in COUNTS for i in range(TURNS)])
    assert len({tuple(sorted(step.rows)) for step in steps}) > 1


def test_a_cued_training_reads_cued_questions(stores, tmp_path):
    write(tmp_path, s0={"site": "肝脏"}, s1={"site": "乳腺"}, s2={"site": "肾"})
    sites = {"s0": "肝脏", "s1": "乳腺", "s2": "肾"}
    for cued in (True, False):
        for step in loaded(source_of(tmp_path, stores, site_cue=cued)):
            for _, (question,), _ in step.rows:
                cue = f"检查部位：{sites[question.split('。')[-1][:2]]}。" if cued else ""
                assert question.startswith(cue or "s")


def test_a_study_without_the_site_of_the_cue_is_named(stores, tmp_path):
    write(tmp_path, s0={"site": "肝脏"}, s2={"site": "肾"})
    with pytest.raises(DataError, match=r"study 's1' .* has no label 'site'"):
        loaded(source_of(tmp_path, stores, site_cue=True))


def test_every_epoch_reads_the_view_that_is_its_own(stores, tmp_path):
    write(tmp_path)
    views = Views(number=1, perturbations=(GainPerturbation(),))
    ids = [f"{study}-{number}" for study, count in COUNTS.items() for number in range(count)]
    for store in stores.values():
        store.write(views.keys(ids, 1), (-store.read(ids)).astype(store.dtype))
    plan = Plan(num_studies=3, seed=7, studies_per_step=3, epochs=range(4), rank=0, num_ranks=1)
    source = source_of(tmp_path, stores, plans=(plan,))
    source = dataclasses.replace(source, features=dataclasses.replace(source.features, views=views))
    steps = loaded(source)
    negative = [
        [(features.clip < 0).any(axis=(1, 2)).tolist() for features in step.features]
        for step in steps
    ]
    names = sorted(COUNTS)
    for step, seen in zip(steps, negative, strict=True):
        for place, of_study in zip(step.step.studies, seen, strict=True):
            expected = [
                views.of_epoch(f"{names[place]}-{n}", seed=7, epoch=step.step.epoch) == 1
                for n in range(COUNTS[names[place]])
            ]
            assert of_study == expected
    assert len({str(seen) for seen in negative}) > 1
    again = loaded(source)
    assert all(
        np.array_equal(one.clip, other.clip)
        for step, same in zip(steps, again, strict=True)
        for one, other in zip(step.features, same.features, strict=True)
    )


def test_what_judges_the_model_is_read_as_it_is(stores, tmp_path):
    """No view of a validation image is embedded; in some epoch of these each would be read."""
    write(tmp_path)
    views = Views(number=3, perturbations=(GainPerturbation(),))
    plan = Plan(
        num_studies=3, seed=7, studies_per_step=3, epochs=range(4), rank=0, num_ranks=1,
        split="validation",
    )  # fmt: skip
    index = index_studies(tmp_path, split="train", only={})
    source = source_of(tmp_path, stores, plans=(plan,), validation=index)
    source = dataclasses.replace(source, features=dataclasses.replace(source.features, views=views))
    names = sorted(COUNTS)
    for step in loaded(source):
        for place, features in zip(step.step.studies, step.features, strict=True):
            ids = [f"{names[place]}-{number}" for number in range(COUNTS[names[place]])]
            assert np.array_equal(features.clip, stores["clip"].read(ids))


def test_a_question_that_needs_those_before_it_comes_with_them(stores, tmp_path):
    write(tmp_path, topic=FOLLOW_UP)
    source = source_of(tmp_path, stores, turns_per_epoch=2)
    for step in loaded(source):
        for _, texts, answer in step.rows:
            number = int(answer[-1])
            study = answer[:2]
            told = [f"{study}{said}{i}" for i in range(number) for said in "问答"]
            assert list(texts) == [*told, f"{study}问{number}"]


def test_reports_and_classes_come_where_recognition_learns_from_them(stores, tmp_path):
    write(tmp_path, s1={"kind": "cyst"}, s2={"kind": "mass|cyst"})
    bank = ClassBank(
        label="kind", separator="|", classes=(BankClass(name="mass"), BankClass(name="cyst"))
    )
    plain = loaded(source_of(tmp_path, stores))
    assert {len(step.reports) + len(step.classes) for step in plain} == {0}
    steps = loaded(source_of(tmp_path, stores, reports=True, bank=bank, turns_per_epoch=1))
    classes = {"s0": (), "s1": (1,), "s2": (0, 1)}
    for step in steps:
        names = [sorted(COUNTS)[place] for place in step.step.studies]
        # the longest text, whichever turn is asked
        assert step.reports == [f"{name}答0" for name in names]
        assert step.classes == [classes[name] for name in names]


def test_turns_of_a_held_out_label_are_not_asked(stores, tmp_path):
    write(tmp_path, topic="kind")
    with pytest.raises(DataError, match="turns of kind alone"):
        loaded(source_of(tmp_path, stores, hold_out={"kind": ("cyst",)}))
    write(tmp_path)
    steps = loaded(source_of(tmp_path, stores, hold_out={"kind": ("cyst",)}))
    assert sum(len(step.rows) for step in steps) == 9 * TURNS


def test_a_report_is_learned_behind_the_closed_questions(stores, tmp_path):
    closed = Turn(question="器官?", answer="肝脏", options=("肝脏", "乳腺"), topic="organ")
    report = Turn(question="报告", answer="肝脏回声均匀", task=Task.REPORT)
    images = (StudyImage(image_id="s0-0", uri="", width=8, height=8),)
    study = Study(
        study_id="s0",
        patient_key="s0",
        split="train",
        dataset="d",
        images=images,
        turns=(report, closed),
    )
    write_studies(tmp_path, [study])
    asked = ProtocolQuestion(topic="organ", question="器官?", options=closed.options)
    told = {}
    for protocol in (ReportProtocol(questions=(asked,)), ReportProtocol()):
        plan = Plan(num_studies=1, seed=0, studies_per_step=1, epochs=range(1), rank=0, num_ranks=1)
        source = source_of(tmp_path, stores, plans=(plan,), protocol=protocol)
        (step,) = loaded(source)
        told[bool(protocol.questions)] = [row[1:] for row in step.rows]
    assert told[True] == [(("器官?", "肝脏", "报告"), "肝脏回声均匀"), (("器官?",), "肝脏")]
    assert told[False] == [(("报告",), "肝脏回声均匀"), (("器官?",), "肝脏")]
