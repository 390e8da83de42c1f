import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sonoray.errors import DataError
from sonoray.images.video import VideoConfig
from sonoray.ingest.sources.table import OTHER_REPORT_QUESTION, REPORT_QUESTION, TableSource
from sonoray.study.contract import Task

HEADER = "study,patient,image,images,report,question,answer,options,task,topic,label:site"
GOOD = "a,p1,,,未见异常。,,,,,,甲状腺"


def write(folder, *lines, header=HEADER, encoding="utf-8"):
    path = folder / "t.csv"
    path.write_bytes("\n".join([header, *lines]).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_the_rows_of_a_study_add_up(tmp_path, picture, encoding):
    for seed, name in enumerate("xyz"):
        picture(tmp_path / "i" / f"{name}.png", seed)
    path = write(
        tmp_path,
        "a,p1,i/y.png,,双侧甲状腺未见异常。,,,,,,甲状腺",
        "b,p1,,,,良恶性？,良性,良性；恶性,,pathology,",
        "a,,,i/x.png; i/y.png;i/z.png,,大小？,正常,,,,",
        encoding=encoding,
    )
    source = TableSource(path, name="thyroid")
    first, second = source.iter_studies()
    assert len(source) == 2
    assert (first.ref, first.patient_ref, second.patient_ref) == ("a", "p1", "p1")
    assert [image.ref for image in first.images] == ["i/y.png", "i/x.png", "i/z.png"]
    assert all(image.data for image in first.images)
    assert first.labels == {"site": "甲状腺"}
    asked, report = first.turns
    assert (asked.question, asked.answer) == ("大小？", "正常")
    assert (asked.task, asked.topic) == (Task.OPEN, "open")
    assert (report.question, report.answer) == (REPORT_QUESTION, "双侧甲状腺未见异常。")
    assert (report.task, report.topic) == (Task.REPORT, "report")
    (closed,) = second.turns
    assert (closed.task, closed.options) == (Task.CLOSED, ("良性", "恶性"))


def test_json_lines_say_the_same(tmp_path):
    write(tmp_path, "1,2,,,,问,是,是;否,,t,肝", "1,2,,a.png;b.png,写。,,,,,,")
    asked = {"question": "问", "answer": "是", "options": ["是", "否"], "topic": "t"}
    rows = [
        {"study": 1, "patient": 2, "label:site": "肝", **asked},
        {"study": "1", "patient": None, "images": ["a.png", "b.png"], "report": "写。"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (told,) = TableSource(tmp_path / "t.csv").iter_studies()
    (said,) = TableSource(tmp_path / "t.jsonl").iter_studies()
    assert (said.patient_ref, said.turns) == (told.patient_ref, told.turns)
    assert said.labels == told.labels == {"site": "肝"}
    assert [image.ref for image in said.images] == [image.ref for image in told.images]


@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        (["b,,,,写。,,,,,,"], {"no_patient": 1}),
        (["b,p,,,写。"], {"malformed_row": 1}),
        (["b,p,,,写。,,,,,,,"], {"malformed_row": 1}),
        (["b,p,,,写。,,,,,,", "b,p,,"], {"malformed_row": 1}),
        (["b,p,,,,问,,,,,"], {"malformed_item": 1}),
        (["b,p,,,,,答,,,,"], {"malformed_item": 1}),
        (["b,p,,,写。,,,是;否,,,"], {"malformed_item": 1}),
        (["b,p,,,,问,答,,guess,,"], {"malformed_item": 1}),
        (["b,p,,,,问,答,,closed,,"], {"bad_options": 1}),
        (["b,p,,,,问,答,是;否,,,"], {"bad_options": 1}),
        (["b,p,,,,问,是,,,,", "b,p,,,,问,否,,,,"], {"conflicting_rows": 1}),
        (["b,p,,,写。,,,,,,", "b,q,,,,,,,,,"], {"conflicting_rows": 1}),
        (["b,p,,,写。,,,,,,", "b,p,,,别。,,,,,,"], {"conflicting_rows": 1}),
        (["b,p,,,写。,,,,,,肝", "b,p,,,,,,,,,脾"], {"conflicting_rows": 1}),
        (["b,p,no.png,,写。,,,,,,"], {"missing_file": 1, "empty_study": 1}),
        (["b,p,../t.csv,,写。,,,,,,"], {"outside_folder": 1, "empty_study": 1}),
        (["b,p,t.csv,,写。,,,,,,"], {"unknown_format": 1, "empty_study": 1}),
        (["b,p,,,,,,,,,"], {"empty_study": 1}),
    ],
)
def test_a_bad_row_costs_its_study_and_no_other(tmp_path, summary_of, lines, reasons):
    summary = summary_of(TableSource(write(tmp_path, GOOD, *lines)))
    assert summary["reasons"] == reasons
    assert summary["studies"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}


def test_a_row_that_names_no_study_is_counted_as_a_row(tmp_path, summary_of):
    summary = summary_of(TableSource(write(tmp_path, GOOD, ",p,,,写。,,,,,,")))
    assert summary["reasons"] == {"malformed_item": 1}
    assert summary["rows"] == 1
    assert summary["studies"] == {"seen": 1, "kept": 1, "duplicate": 0, "quarantined": 0}


FOREIGN = (
    "检查号,病人号,姓名,图像路径,超声所见,超声提示,检查部位\n"
    "A1,P1,王小明,a.png,左叶低回声。,3类。,甲状腺\n"
    "A2,P2,李四,b.png,未见异常。,,甲状腺\n"
)
COLUMNS_OPTION = (
    "study=检查号,patient=病人号,image=图像路径,report=超声所见+超声提示,label:site=检查部位"
)


def test_a_foreign_table_is_proposed_and_read_under_its_own_names(tmp_path, picture, summary_of):
    for seed, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", seed)
    path = tmp_path / "t.csv"
    path.write_text(FOREIGN, encoding="gb18030")
    with pytest.raises(DataError, match="unknown columns '检查号'") as error:
        TableSource(path)
    assert str(error.value).endswith(f"; if its columns mean these, add --columns {COLUMNS_OPTION}")
    source = TableSource(path, columns=[COLUMNS_OPTION])
    first, second = source.iter_studies()
    assert (first.ref, first.patient_ref, first.labels) == ("A1", "P1", {"site": "甲状腺"})
    assert first.turns[0].answer == "左叶低回声。\n3类。"
    assert second.turns[0].answer == "未见异常。"
    assert [image.ref for image in first.images] == ["a.png"]
    assert summary_of(source)["studies"]["kept"] == 2
    assert source.config() == {"columns": dict(
        pair.split("=") for pair in COLUMNS_OPTION.split(",")
    )}  # fmt: skip
    with pytest.raises(DataError, match="has no column '号', which --columns names for 'patient'"):
        TableSource(path, columns=["study=检查号,patient=号,report=超声所见"])


def test_a_missing_image_names_the_option_and_no_file_of_a_private_source(tmp_path, summary_of):
    with pytest.raises(DataError) as error:
        summary_of(TableSource(write(tmp_path, "b,p,王小明/no.png,,写。,,,,,,")))
    assert "give the folder that it is relative to with --images" in str(error.value)
    assert "王小明" not in str(error.value)


def test_a_row_twice_is_said_once(tmp_path):
    question = "a,p1,,,,问,答,,,,"
    (study,) = TableSource(write(tmp_path, GOOD, question, question, GOOD)).iter_studies()
    assert [turn.task for turn in study.turns] == [Task.OPEN, Task.REPORT]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "study,patient,Report",
            r"unknown columns 'Report' \(did you mean 'report'\?\); known are study, .* label:NAME",
        ),
        (
            "Study,patient,studies,Label:site",
            r"'Study' \(did you mean 'study'\?\), 'studies' \(did you mean 'study'\?\), "
            r"'Label:site' \(did you mean 'label:site'\?\); known",
        ),
        ("study,patient,finding", "unknown columns 'finding'; known"),
        ("study,report", "lacks the columns patient; it has study, report"),
        ("study,patient", "lacks the columns one of image, images, report, question"),
        ("study,patient,question", "lacks the columns answer"),
        ("study,patient,report,label:", "column 'label:' without a name"),
        ("study;patient;report", "separates its columns with ';'; save it with ','"),
    ],
)
def test_wrong_columns_are_one_clear_error(tmp_path, header, message):
    row = ",".join("x" * (header.count(",") + 1))
    with pytest.raises(DataError, match=message):
        TableSource(write(tmp_path, row, header=header))


def test_another_kind_of_file_is_one_clear_error(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"is no \.csv, \.tsv or \.jsonl; save it as one of them"):
        TableSource(tmp_path / "t.xlsx")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.lists(st.text())
KEYS = st.sampled_from([*HEADER.split(","), "label:x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.dictionaries(KEYS, VALUES)))
def test_whatever_stands_in_a_row_no_study_is_lost_and_nothing_breaks(tmp_path, rows):
    good = {"study": "good", "patient": "p", "report": "写。", "answer": None}
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [good, *rows])))
    source = TableSource(tmp_path / "t.jsonl")
    studies = list(source.iter_studies())
    assert len(studies) == len(source) >= 1
    assert all(study.problem or study.patient_ref for study in studies)


def test_a_video_stands_for_frames_of_it_beside_images_and_text(tmp_path, picture, summary_of):
    loop = [Image.new("L", (48, 40), level) for level in range(20, 200, 20)]
    loop[0].save(tmp_path / "loop.gif", save_all=True, append_images=loop[1:], duration=100)
    picture(tmp_path / "still.png")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    path = write(
        tmp_path,
        "a,p1,still.png,loop.gif,左室收缩正常。,,,,,,心脏",
        "b,p2,broken.mp4,,左室扩大。,,,,,,心脏",
        "c,p3,gone.avi,,左室扩大。,,,,,,心脏",
    )
    source = TableSource(path, video=VideoConfig(max_frames=3))
    first, broken, gone = source.iter_studies()
    assert [image.ref for image in first.images] == [
        "still.png",
        "loop.gif",
        "loop.gif#4",
        "loop.gif#7",
    ]
    assert [image.frame_index for image in first.images] == [0, 1, 4, 7]
    assert [int(image.data[0, 0, 0]) for image in first.images[1:]] == [40, 100, 160]
    assert first.turns[0].answer == "左室收缩正常。"
    assert broken.images[0].problem.startswith("unreadable:")
    assert gone.images[0].problem.startswith("missing_file:")
    summary = summary_of(source)
    assert summary["images"] == {"seen": 6, "kept": 4, "duplicate": 0, "quarantined": 2}


def test_settings_of_videos_count_where_a_table_names_some(tmp_path):
    few, many = VideoConfig(max_frames=1), VideoConfig(max_frames=9)
    stills = write(tmp_path, "a,p1,a.png,,,,,,,,")
    assert TableSource(stills, video=few).config() == TableSource(stills, video=many).config()
    loops = write(tmp_path, "a,p1,a.avi,,,,,,,,")
    assert TableSource(loops, video=few).config() != TableSource(loops, video=many).config()


def test_people_whom_a_spreadsheet_made_one_are_refused_row_by_row(tmp_path, summary_of):
    rows = [f"s{n},4.40106E+17,,,报告{n}。,,,,,," for n in range(12)]
    summary = summary_of(TableSource(write(tmp_path, *rows, GOOD)))
    assert summary["studies"] == {"seen": 13, "kept": 1, "duplicate": 0, "quarantined": 12}
    assert summary["reasons"] == {"rounded_identifier": 12}


def test_studies_whose_names_became_one_are_refused_row_by_row(tmp_path):
    rows = [f"2.02411E+14,p{n},,,报告{n}。,,,,,," for n in range(3)]
    source = TableSource(write(tmp_path, *rows, GOOD))
    good, *refused = source.iter_studies()
    assert (good.ref, len(source)) == ("a", 4)
    assert [each.problem.partition(" has ")[0] for each in refused] == [
        f"rounded_identifier: line {line}, column study" for line in (2, 3, 4)
    ]
    assert len({each.patient_ref for each in refused}) == 3


@pytest.mark.parametrize(
    ("patients", "reasons"),
    [
        (["123.0", "124.0"], ["reformatted_identifier"] * 2),
        (["00123", "123"], ["", "shortened_identifier"]),
        (["nan", "P2"], ["empty_identifier", ""]),
        (["00123", "00124"], ["", ""]),
    ],
)
def test_what_else_a_spreadsheet_does_to_an_identifier_is_refused(tmp_path, patients, reasons):
    rows = [f"s{n},{patient},,,报告{n}。,,,,,," for n, patient in enumerate(patients)]
    studies = TableSource(write(tmp_path, *rows)).iter_studies()
    assert [each.problem.partition(":")[0] for each in studies] == reasons


def test_a_number_of_json_that_was_a_float_is_refused(tmp_path):
    rows = [
        {"study": f"s{n}", "patient": p, "report": "写。"} for n, p in enumerate((4.4e17, 12.0, 7))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    problems = [each.problem for each in TableSource(tmp_path / "t.jsonl").iter_studies()]
    assert [problem.partition(":")[0] for problem in problems] == [
        "rounded_identifier",
        "reformatted_identifier",
        "",
    ]


def test_a_modality_is_a_label_and_its_report_is_no_ultrasound(tmp_path):
    header = "study,patient,report,modality,label:findings"
    rows = ("a,p1,未见异常。,DX,Effusion|Nodule", "b,p2,未见异常。,US,", "c,p3,未见异常。,,")
    studies = list(TableSource(write(tmp_path, *rows, header=header), name="t").iter_studies())
    assert [study.labels for study in studies] == [
        {"modality": "DX", "findings": "Effusion|Nodule"},
        {"modality": "US"},
        {},
    ]
    asked = [study.turns[0].question for study in studies]
    assert asked == [OTHER_REPORT_QUESTION, REPORT_QUESTION, REPORT_QUESTION]


def test_rows_that_disagree_on_the_modality_are_refused(tmp_path):
    rows = ("a,p1,一。,DX", "a,p1,,CT")
    path = write(tmp_path, *rows, header="study,patient,report,modality")
    (study,) = TableSource(path, name="t").iter_studies()
    assert study.problem.endswith("disagree on label:modality")
