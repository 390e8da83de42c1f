"""The dataset card of a real dataset: its counts, and nobody's own."""

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.phantom import PhantomConfig
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.release.dataset_card import LEAST, dataset_card


def test_the_card_counts_what_the_dataset_holds_and_tells_nobody_apart(tmp_path):
    workspace = Workspace.open(tmp_path)
    config = IngestConfig.model_validate({"splits": {"train": 0.5, "validation": 0, "test": 0.5}})
    output = ingest(PhantomSource(PhantomConfig(num_patients=30), name="p"), workspace, config)
    card = dataset_card("p", "phantom", output.manifest, output.path)
    studies = list(iter_studies(output.path, complete=False))
    trained = [study for study in studies if study.split == "train"]
    images = sum(len(study.images) for study in trained)
    patients = len({study.patient_key for study in trained})
    assert f"| train | {patients} | {len(trained)} | {images} |" in card
    assert "| studies | 30 | 30 | 0 | 0 |" in card
    assert "read by the source `phantom`" in card
    assert "| `ingest.splits.train` | 0.5 |" in card
    assert "| pathology | closed |" in card
    for study in studies:
        assert study.patient_key not in card
        assert study.study_id not in card
        assert all(turn.answer not in card for turn in study.turns if turn.topic == "report")
    organs = [study.labels["organ"] for study in studies]
    for organ in set(organs):
        number = organs.count(organ)
        shown = str(number) if number >= LEAST else f"(fewer than {LEAST})"
        assert f"{organ} {shown}" in card
