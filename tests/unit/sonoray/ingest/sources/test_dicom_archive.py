import json
import zipfile

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from sonoray.errors import DataError
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.ingest.sources.dicom_archive import DicomSource
from sonoray.study.contract import Task, iter_studies
from sonoray.workspace import Workspace

JPIP = UID("1.2.840.10008.1.2.4.94")
"""Its pixels are at an address, not in the object."""


def region(left, upper, right, lower):
    data = Dataset()
    data.RegionSpatialFormat = data.RegionDataType = 1
    data.RegionLocationMinX0, data.RegionLocationMinY0 = left, upper
    data.RegionLocationMaxX1, data.RegionLocationMaxY1 = right, lower
    data.PhysicalUnitsXDirection = data.PhysicalUnitsYDirection = 3
    data.PhysicalDeltaX = data.PhysicalDeltaY = 0.02
    return data


@pytest.fixture
def archive(tmp_path, make_object, make_picture):
    """Two good studies, three bad ones, and files that are none."""
    folder = tmp_path / "archive"
    (folder / "deep" / "er").mkdir(parents=True)

    def write(name, seed, *, frames=1, syntax=None, **attributes):
        loop = np.stack([make_picture(10 * seed + number) for number in range(frames)])
        extra = () if syntax is None else (syntax,)
        (folder / name).write_bytes(make_object(loop, *extra, **attributes))

    good = {"StudyInstanceUID": "1.1", "PatientID": "A", "AccessionNumber": "ACC1"}
    write("z.dcm", 0, SeriesNumber=1, InstanceNumber=1, **good)
    write("deep/b.dcm", 1, SeriesNumber=1, InstanceNumber=10, BodyPartExamined="THYROID", **good)
    write(
        "deep/er/a.dcm",
        2,
        frames=20,
        syntax=RLELossless,
        SeriesNumber=1,
        InstanceNumber=2,
        SequenceOfUltrasoundRegions=Sequence([region(8, 4, 39, 35)]),
        **good,
    )
    write("deep/sr.dcm", 3, SOPClassUID=ComprehensiveSRStorage, **good)
    report = (folder / "deep/sr.dcm").read_bytes()
    # without its pixels
    (folder / "deep/sr.dcm").write_bytes(report[: report.rindex(b"\xe0\x7f\x10\x00")])
    write("other.dcm", 4, StudyInstanceUID="1.2", PatientID="B", PatientAge="031Y", PatientSex="F")
    write("mix1.dcm", 5, StudyInstanceUID="1.3", PatientID="C")
    write("mix2.dcm", 6, StudyInstanceUID="1.3", PatientID="D")
    write("nobody.dcm", 7, StudyInstanceUID="1.4", PatientID="")
    write("broken.dcm", 8, StudyInstanceUID="1.5", PatientID="E", Rows=4_000)
    (folder / "README.txt").write_text("notes on Secret^Name")
    (folder / "nouid.dcm").write_bytes(make_object(make_picture(99)[None], StudyInstanceUID=""))
    (folder / "lost.dcm").symlink_to(folder / "nowhere")
    return folder


SUMMARY = {
    "images": {"seen": 19, "kept": 11, "duplicate": 0, "quarantined": 8},
    "studies": {"seen": 6, "kept": 2, "duplicate": 0, "quarantined": 4},
    "reasons": {
        "empty_study": 1,
        "missing_attribute": 1,
        "missing_patient": 1,
        "mixed_patients": 1,
        "no_study": 1,
        "not_an_image": 1,
        "not_dicom": 1,
        "study_rejected": 3,
        "truncated": 1,
        "unreadable_file": 1,
    },
}


def check(output):
    """What both a folder and a zip of the archive must give."""
    studies = list(iter_studies(output.path, complete=False))
    assert [len(study.images) for study in studies] == [10, 1]
    first, other = studies
    assert [image.frame_index for image in first.images] == [0, 1, 3, 6, 8, 11, 13, 16, 18, 0]
    assert {(image.width, image.height) for image in first.images[1:9]} == {(32, 32)}
    own = {"modality": "US", "sop_class": "Ultrasound Multi-frame Image Storage"}
    assert dict(first.images[1].labels) == own | {"spacing_mm_x": "0.2", "spacing_mm_y": "0.2"}
    assert (first.images[0].width, dict(first.images[0].labels)) == (48, own)
    assert first.labels == {"modality": "US", "body_part": "THYROID", "site": "甲状腺"}
    assert other.labels == {"modality": "US", "age": "31", "sex": "F"}
    assert "DCM 113100" in first.provenance
    assert "cut to the scan area in 1 of 3 objects" in first.provenance
    return first, other


def test_a_folder_is_read_and_everything_in_it_accounted_for(archive, tmp_path):
    (tmp_path / "reports.jsonl").write_text(
        "\n".join(
            json.dumps(row, ensure_ascii=False)
            for row in (
                {"accession": "ACC1", "report": "甲状腺未见异常。"},
                {"study_uid": "1.99", "report": "不在此处。"},
            )
        ),
        encoding="gb18030",
    )
    source = DicomSource(archive, name="kidney", reports=tmp_path / "reports.jsonl")
    output = ingest(source, Workspace.open(tmp_path / "ws"), IngestConfig())
    summary = output.manifest["summary"]
    assert summary["images"] == SUMMARY["images"]
    assert summary["studies"] == SUMMARY["studies"]
    assert summary["rows"] == 1
    assert summary["reasons"] == SUMMARY["reasons"] | {"no_images": 1}
    first, other = check(output)
    assert [(turn.task, turn.answer) for turn in first.turns] == [(Task.REPORT, "甲状腺未见异常。")]
    assert not other.turns
    assert Workspace.open(tmp_path / "ws").dataset("kidney").path == output.path
    # nothing that identifies is in what was written
    for file in output.path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for secret in (b"Secret", b"ACC1", b"nobody.dcm", b"README.txt"):
                assert secret not in content, file


def test_a_zip_gives_the_same_and_leaves_nothing_behind(archive, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(archive.rglob("*")):
            if file.is_file():
                packed.write(file, f"../../{file.name}")
    before = sorted(tmp_path.iterdir())
    output = ingest(DicomSource(path), Workspace.open(tmp_path / "ws"), IngestConfig())
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "ws"])
    summary = output.manifest["summary"]
    assert summary["studies"] == SUMMARY["studies"]
    assert summary["rows"] == 0
    assert summary["images"] == SUMMARY["images"] | {"seen": 18, "quarantined": 7}
    assert summary["reasons"].get("unreadable_file") is None
    check(output)


def test_a_linked_folder_is_read_and_counts_once(tmp_path, make_object, make_picture):
    for number, folder in enumerate(("archive/2024", "volume")):
        (tmp_path / folder).mkdir(parents=True)
        data = make_object(make_picture(number)[None], StudyInstanceUID=f"1.{number}")
        (tmp_path / folder / "a.dcm").write_bytes(data)
    (tmp_path / "archive" / "2023").symlink_to(tmp_path / "volume")
    (tmp_path / "archive" / "2024" / "again").symlink_to(tmp_path / "archive")
    studies = list(DicomSource(tmp_path / "archive").iter_studies())
    refs = [[image.ref for image in study.images] for study in studies]
    assert refs == [["2024/a.dcm"], ["2023/a.dcm"]]


def test_a_study_without_a_patient_may_be_one_of_its_own(tmp_path, make_object, make_picture):
    for number in (1, 2):
        data = make_object(make_picture(number)[None], StudyInstanceUID=f"1.{number}", PatientID="")
        (tmp_path / f"{number}.dcm").write_bytes(data)
    source = DicomSource(tmp_path, DicomConfig(missing_patient="per_study"))
    studies = list(source.iter_studies())
    assert [study.problem for study in studies] == ["", ""]
    assert len({study.patient_ref for study in studies}) == 2
    assert not source.public


def test_two_reports_for_one_study_contradict_each_other(tmp_path, make_object, make_picture):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(make_object(make_picture()[None]))
    table = tmp_path / "r.csv"
    table.write_text("study_uid,report\n1.2.3,a\n1.2.3,b\n")
    (study,) = DicomSource(folder, reports=table).iter_studies()
    assert study.problem.startswith("conflicting_reports: 2 different reports")


@pytest.mark.parametrize("other", ["P2", ""])
def test_no_patient_gets_the_report_of_another(tmp_path, make_object, make_picture, other):
    """One accession number, two patients; where the table names the study itself, it is clear."""
    folder = tmp_path / "a"
    folder.mkdir()
    for number, patient in enumerate(("P1", other, "P1")):
        accession = "17" if number < 2 else "18"
        data = make_object(
            make_picture(number)[None],
            StudyInstanceUID=f"1.{number}",
            PatientID=patient,
            AccessionNumber=accession,
        )
        (folder / f"{number}.dcm").write_bytes(data)
    config = DicomConfig(missing_patient="per_study")
    table = tmp_path / "r.csv"
    table.write_text("accession,report\n17,malignant\n18,benign\n")
    *both, clear = DicomSource(folder, config, reports=table).iter_studies()
    assert [study.turns for study in both] == [(), ()]
    assert all(study.problem.startswith("ambiguous_accession: ") for study in both)
    assert (clear.turns[0].answer, clear.problem) == ("benign", "")
    table.write_text("study_uid,report\n1.1,malignant\n1.2,benign\n")
    studies = list(DicomSource(folder, config, reports=table).iter_studies())
    assert [len(study.turns) for study in studies] == [0, 1, 1]
    assert not any(study.problem for study in studies)


def test_a_report_with_the_identifiers_of_two_patients_goes_to_neither(
    tmp_path, make_object, make_picture
):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(2):
        data = make_object(
            make_picture(number)[None],
            StudyInstanceUID=f"1.{number}",
            PatientID=f"P{number}",
            AccessionNumber=f"A{number}",
        )
        (folder / f"{number}.dcm").write_bytes(data)
    table = tmp_path / "r.csv"
    table.write_text("study_uid,accession,report\n1.0,A1,malignant\n1.1,A1,benign\n")
    first, second, row = DicomSource(folder, reports=table).iter_studies()
    assert (first.turns, first.problem) == ((), "")
    assert second.turns[0].answer == "benign"
    assert (row.ref, row.turns) == ("reports:2", ())
    assert row.problem.startswith("conflicting_identifiers: line 2 has the study_uid of one study")


def test_the_digest_follows_files_reports_and_configuration(archive, tmp_path):
    table = tmp_path / "r.csv"
    table.write_text("study_uid,report\n1.1,a\n")
    digests = {DicomSource(archive).input_digest(), DicomSource(archive).input_digest()}
    assert len(digests) == 1
    digests.add(DicomSource(archive, reports=table).input_digest())
    table.write_text("study_uid,report\n1.1,b\n")
    digests.add(DicomSource(archive, reports=table).input_digest())
    (archive / "z.dcm").write_bytes(b"")
    digests.add(DicomSource(archive).input_digest())
    assert len(digests) == 4
    config = DicomConfig(crop="none")
    assert DicomSource(archive, config).config() != DicomSource(archive).config()


def test_what_is_no_archive_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"give the one that has the objects"):
        DicomSource(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no file .*; check the path"):
        DicomSource(tmp_path, reports=tmp_path / "absent.csv")


@pytest.fixture
def mixed(tmp_path, make_object, make_picture, make_segmentation):
    """One study: an ultrasound, two mammograms, a CT slice, a worksheet and a segmentation."""
    objects = {
        "us": {},
        "mg1": {"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation, "Modality": "MG"},
        "mg2": {"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation, "Modality": "MG"},
        "ct": {"SOPClassUID": CTImageStorage, "Modality": "CT"},
        "sheet": {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"},
        "capture": {"SOPClassUID": SecondaryCaptureImageStorage},
    }
    for number, (name, attributes) in enumerate(objects.items()):
        data = make_object(make_picture(number)[None], SOPInstanceUID=f"1.{number}", **attributes)
        (tmp_path / f"{name}.dcm").write_bytes(data)
    outline = np.eye(40, 48, dtype=np.uint8)
    (tmp_path / "seg.dcm").write_bytes(make_segmentation([outline], places=[("1.0", 1)]))
    return tmp_path


def test_of_a_mixed_study_the_ultrasound_is_kept_and_the_rest_has_a_reason(mixed):
    (study,) = DicomSource(mixed).iter_studies()
    kept = {image.ref: dict(image.labels) for image in study.images if not image.problem}
    assert kept == {
        "capture.dcm": {"modality": "US", "sop_class": "Secondary Capture Image Storage"},
        "us.dcm": {"modality": "US", "sop_class": "Ultrasound Multi-frame Image Storage"},
    }
    assert [image.ref for image in study.images if image.mask is not None] == ["us.dcm"]
    reasons = {image.ref: image.problem.partition(" (")[0] for image in study.images}
    assert {ref: reason for ref, reason in reasons.items() if reason} == {
        "ct.dcm": "other_modality: CT",
        "mg1.dcm": "other_modality: MG",
        "mg2.dcm": "other_modality: MG",
        "sheet.dcm": "other_modality: OT",
    }
    assert study.labels == {"modality": "US"}  # and it lacks nothing


@pytest.mark.parametrize(
    ("modalities", "question"),
    [
        (("US",), "请写出这次超声检查的报告。"),
        (("US", "MG"), "请写出这次检查的报告。"),
        (("CT",), "请写出这次检查的报告。"),
    ],
)
def test_what_asks_for_the_report_calls_only_ultrasound_so(
    mixed, tmp_path_factory, modalities, question
):
    table = tmp_path_factory.mktemp("reports") / "reports.csv"
    table.write_text("study_uid,report\n1.2.3,未见异常\n", encoding="utf-8")
    source = DicomSource(mixed, DicomConfig(modalities=modalities), reports=table)
    (study,) = source.iter_studies()
    assert [turn.question for turn in study.turns] == [question]


def test_other_modalities_are_opened_by_name_and_each_image_keeps_its_own(mixed):
    (study,) = DicomSource(mixed, DicomConfig(modalities=("US", "MG"))).iter_studies()
    kept = {image.ref: image.labels["modality"] for image in study.images if not image.problem}
    assert kept == {"capture.dcm": "US", "mg1.dcm": "MG", "mg2.dcm": "MG", "us.dcm": "US"}
    assert study.labels == {"modality": "MG+US"}


def test_a_study_says_that_it_lacks_its_loop(tmp_path, make_object, make_picture):
    (tmp_path / "still.dcm").write_bytes(make_object(make_picture()[None]))
    unread = {"frames": [b"no such coding"], "NumberOfFrames": 87}
    loop = make_object(make_picture(1)[None], JPIP, **unread)
    (tmp_path / "loop.dcm").write_bytes(loop)
    (study,) = DicomSource(tmp_path).iter_studies()
    assert [image.ref for image in study.images if not image.problem] == ["still.dcm"]
    (lost,) = [image for image in study.images if image.problem]
    assert lost.problem.startswith("unsupported_syntax: JPIP Referenced; export the object as")
    assert study.labels == {"lacks": "loop 1", "modality": "US"}
    assert study.remarks == {"lacks_loop: loops of the study could not be read": 1}


def test_real_objects_of_many_machines_are_read(tmp_path, shared_data):
    config = DicomConfig(missing_patient="per_study", modalities=("US", "OT"))
    output = ingest(
        DicomSource(shared_data("us_dicom"), config),
        Workspace.open(tmp_path / "ws"),
        IngestConfig(),
    )
    summary = output.manifest["summary"]
    assert summary["studies"] == {"seen": 8, "kept": 8, "duplicate": 0, "quarantined": 0}
    assert summary["images"]["quarantined"] == 0
    assert summary["images"]["kept"] + summary["images"]["duplicate"] == 22
    labels = [study.labels for study in iter_studies(output.path, complete=False)]
    assert {"心脏"} == {each["site"] for each in labels if "site" in each}
    assert {each.get("model") for each in labels} >= {"CX50", "Turbo", "LOGIQ 700"}
