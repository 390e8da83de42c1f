import hashlib
import tracemalloc

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.intake import make_dataset
from sonoray.ingest.kept_studies import KeptStudies
from sonoray.ingest.prepare import PreparedStudy
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray.study.image_table import PreparedImage


def study(number):
    return Study(
        study_id=f"{number:064x}",
        patient_key=f"p{number}",
        split="",
        dataset="d",
        images=tuple(
            StudyImage(image_id=f"{number}-{view}", uri="u", width=8, height=8, labels={"a": "b"})
            for view in range(number % 3)
        ),
        turns=(Turn(question="?", answer="无", task=Task.CLOSED, options=("有", "无"), topic="t"),),
        labels={"device": f"{number}"},
        provenance="by hand",
    )


def test_studies_come_back_as_they_were_as_often_as_asked(tmp_path):
    kept, studies = KeptStudies(tmp_path), [study(number) for number in range(600)]
    for number, each in enumerate(studies):
        kept.add(each, f"ref{number}")
    kept.close()
    assert len(kept) == 600
    assert kept.num_images == sum(len(each.images) for each in studies)
    assert list(kept) == list(kept) == studies
    assert [ref for _, ref in kept.with_refs()] == [f"ref{number}" for number in range(600)]
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_none_is_none(tmp_path):
    kept = KeptStudies(tmp_path)
    kept.close()
    assert not kept
    assert not list(kept)


class Archive:
    name = "d"
    public = True


def prepared(number):
    def digest(kind):
        return hashlib.sha256(f"{kind}{number}".encode()).hexdigest()

    image = StudyImage(image_id=digest("image"), uri="", width=8, height=8, labels={"a": "b"})
    return PreparedStudy(
        study_id=digest("study"),
        source_ref=digest("ref"),
        patient_key=digest("patient"),
        spelling=digest("spelling"),
        turns=(Turn(question="写出报告", answer=f"结节 {number} mm。" * 20, task=Task.REPORT),),
        labels={"device": "one of many", "size_mm": str(number)},
        provenance="de-identified " * 10,
        split="",
        problem="",
        remarks={},
        is_row=False,
        outcomes=(PreparedImage(image=image, png=b"png", mask_png=None, perceptual_hash=None),),
    )


def test_an_archive_is_not_held_in_memory(tmp_path):
    """Of a study of one image its identifiers stay, some 1 kB; its row alone would take 5 kB."""
    peaks = []
    for count in (20, 2100, 4200):  # the first imports what is needed, the others fill a file
        folder = tmp_path / str(count)
        folder.mkdir()
        tracemalloc.start()
        make_dataset(folder, Archive(), map(prepared, range(count)), IngestConfig())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 2100 < 2000
