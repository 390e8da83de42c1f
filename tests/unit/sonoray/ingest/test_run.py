import hashlib
import io
import pickle
import weakref
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from sonoray.errors import DataError
from sonoray.images.decode import encode_png, image_id
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.intake import Accounting
from sonoray.ingest.prepare import Preparation, prepare_all
from sonoray.ingest.run import ingest
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import IMAGE_SCHEMA, QUARANTINE_SCHEMA, Task, Turn, iter_studies
from sonoray.study.raw import RawImage, RawStudy
from sonoray.study.splits import SplitFractions
from sonoray.workspace import Workspace

CONFIG = IngestConfig()
TURN = Turn(
    question="良性还是恶性？",
    answer="良性",
    task=Task.CLOSED,
    options=("良性", "恶性"),
    topic="pathology",
)


@dataclass
class ListSource:
    """A source over studies in memory."""

    studies: list
    name: str = "list"
    public: bool = True
    version: int = 1

    def iter_studies(self):
        yield from self.studies

    def config(self):
        return {"version": self.version}

    def input_digest(self):
        return hashlib.sha256(pickle.dumps(self.studies)).hexdigest()


@dataclass
class PublishedList(ListSource):
    """A published set in memory."""

    set_name: str = "theirs"


def picture(seed, size=(48, 40)):
    noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))


def as_jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def image(seed, **changes):
    return replace(RawImage(ref=f"{seed}.png", data=encode_png(picture(seed))), **changes)


def study(ref, *images, patient=None, **changes):
    raw = RawStudy(ref=ref, patient_ref=patient or ref, images=images, turns=(TURN,))
    return replace(raw, **changes)


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "ws")


def bring(workspace, *studies, config=CONFIG, **source):
    output = ingest(ListSource(list(studies), **source), workspace, config)
    return output, output.manifest["summary"]


def quarantine(output):
    return pq.read_table(output.path / "quarantine.parquet").to_pylist()


def image_rows(output):
    files = sorted((output.path / "images").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_a_study_arrives_whole(workspace):
    labels = {"caption": "一个病灶", "shows_finding": "1"}
    raw = study(
        "s1",
        image(1, labels=labels, frame_index=4),
        image(2),
        labels={"pathology": "benign"},
        provenance="a list",
    )
    output, summary = bring(workspace, raw)
    (kept,) = iter_studies(output.path)
    assert kept.turns == (TURN,)
    assert kept.labels == {"pathology": "benign"}
    assert kept.provenance == "a list"
    assert kept.dataset == "list"
    first, second = kept.images
    assert first.image_id == image_id(picture(1))
    assert (first.width, first.height, first.frame_index) == (40, 48, 4)
    assert first.labels == labels
    assert second.source_ref == "2.png"
    assert summary["images"] == {"seen": 2, "kept": 2, "duplicate": 0, "quarantined": 0}
    assert summary["studies"] == {"seen": 1, "kept": 1, "duplicate": 0, "quarantined": 0}
    assert workspace.dataset("list").path == output.path


def test_pixels_and_masks_can_be_read_back_by_uri(workspace):
    mask = np.zeros((48, 40), np.uint8)
    mask[10:20, 5:15] = 255
    levels = mask.copy()
    levels[12:14, 7:9] = 128  # from a source that makes its masks
    output, summary = bring(
        workspace,
        study("s1", image(1, mask=encode_png(mask)), image(2)),
        study("s2", image(3, data=picture(3), mask=mask // 255)),
        study("s3", image(4, data=picture(4), mask=levels)),
        study("s4", image(5, mask=encode_png(levels))),
    )
    assert summary["masks"] == 4
    for kept in iter_studies(output.path):
        for reference in kept.images:
            table = pq.read_table(output.path / reference.uri)
            assert table.schema == IMAGE_SCHEMA
            (row,) = table.filter(
                np.array(table["image_id"].to_pylist()) == reference.image_id
            ).to_pylist()
            pixels = np.asarray(Image.open(io.BytesIO(row["png"])))
            assert image_id(pixels) == reference.image_id
            if reference.source_ref == "2.png":
                assert row["mask_png"] is None
            else:
                stored = np.asarray(Image.open(io.BytesIO(row["mask_png"])))
                wanted = {"4.png": levels, "5.png": np.where(levels == 128, 255, levels)}
                np.testing.assert_array_equal(stored, wanted.get(reference.source_ref, mask))


def test_a_rerun_is_a_no_op_and_any_change_is_not(workspace):
    one, two = study("s1", image(1)), study("s2", image(2))
    output, _ = bring(workspace, one)
    assert not output.reused
    assert bring(workspace, one)[0].reused
    assert not bring(workspace, one, two)[0].reused
    assert not bring(workspace, one, version=2)[0].reused
    assert not bring(workspace, one, config=IngestConfig(seed=1))[0].reused
    assert workspace.dataset("list").manifest["config"]["ingest"]["seed"] == 1


def test_the_same_input_gives_the_same_bytes(tmp_path):
    studies = [study(f"s{n}", image(2 * n), image(2 * n + 1)) for n in range(12)]
    files = [bring(Workspace.open(tmp_path / name), *studies)[0].manifest["files"] for name in "ab"]
    assert files[0] == files[1]
    assert len(files[0]) == 3


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"data": b""}, "empty_file"),
        ({"data": b"no image"}, "unknown_format"),
        ({"data": as_jpeg(picture(9))[:300]}, "unreadable"),
        ({"data": np.zeros((4, 4), np.uint8)}, "too_small"),
        ({"data": np.zeros((40, 40), np.float32)}, "unsupported_mode"),
        ({"mask": encode_png(picture(1, (20, 20)))}, "bad_mask"),
        ({"mask": b"no image"}, "bad_mask"),
        ({"problem": "missing_file: gone.png is not there"}, "missing_file"),
    ],
)
def test_a_bad_image_is_quarantined_and_its_study_goes_on(workspace, bad, reason):
    output, summary = bring(workspace, study("s1", image(1), image(2, **bad)))
    (row,) = quarantine(output)
    assert (row["source_ref"], row["reason"]) == ("2.png", reason)
    assert row["message"]
    assert summary["reasons"] == {reason: 1}
    assert summary["images"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}
    assert [len(kept.images) for kept in iter_studies(output.path)] == [1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"turns": (replace(TURN, answer=" "),)}, "empty_turn"),
        ({"turns": (replace(TURN, question=""),)}, "empty_turn"),
        ({"turns": (replace(TURN, answer="不明"),)}, "bad_options"),
        ({"problem": "conflicting_rows: two truths"}, "conflicting_rows"),
    ],
)
def test_a_bad_study_is_quarantined_with_all_its_images(workspace, bad, reason):
    good, broken = study("s1", image(1)), study("s2", image(2), image(3), **bad)
    output, summary = bring(workspace, good, broken)
    rows = quarantine(output)
    assert [(row["source_ref"], row["reason"]) for row in rows] == [
        ("s2", reason),
        ("2.png", "study_rejected"),
        ("3.png", "study_rejected"),
    ]
    assert summary["studies"]["quarantined"] == 1
    assert summary["images"] == {"seen": 3, "kept": 1, "duplicate": 0, "quarantined": 2}
    assert len(image_rows(output)) == 1


@pytest.mark.parametrize(
    ("images", "turns"), [((), ()), ((image(2, data=b"x"), image(3, data=b"")), (TURN,))]
)
def test_a_study_without_a_usable_image_is_quarantined(workspace, images, turns):
    output, summary = bring(workspace, study("s1", image(1)), study("s2", *images, turns=turns))
    assert [row["source_ref"] for row in quarantine(output) if row["reason"] == "empty_study"] == [
        "s2"
    ]
    assert summary["images"]["quarantined"] == len(images)
    assert summary["studies"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}


def test_a_study_of_images_or_of_text_alone_is_kept_and_left_out_of_training(workspace):
    whole, seen, told = study("s1", image(1)), study("s2", image(2), turns=()), study("s3")
    output, summary = bring(workspace, whole, seen, told)
    assert summary["studies"] == {"seen": 3, "kept": 3, "duplicate": 0, "quarantined": 0}
    assert (summary["without_text"], summary["without_images"]) == (1, 1)
    (complete,) = iter_studies(output.path)
    assert (len(complete.images), len(complete.turns)) == (1, 1)
    everything = list(iter_studies(output.path, complete=False))
    assert [(len(each.images), len(each.turns)) for each in everything] == [(1, 1), (1, 0), (0, 1)]
    assert len(image_rows(output)) == 2


@pytest.mark.parametrize("studies", [[], [study("s1", image(1, data=b"x"))]])
def test_a_source_of_which_nothing_can_be_kept_is_an_error_and_leaves_nothing(workspace, studies):
    with pytest.raises(DataError, match=rf"none of {len(studies)} studies could be kept"):
        bring(workspace, *studies)
    assert list(workspace.stages.iterdir()) == []
    assert workspace.dataset_names() == []


def test_where_nothing_can_be_kept_the_first_reject_is_told_without_what_it_quotes(workspace):
    problem = f"unreadable: file 'ZHANG SAN.png'\nis {'very ' * 60}damaged"
    lost = study("s1", RawImage(ref="1.png", data=b"", problem=problem))
    with pytest.raises(DataError) as caught:
        ingest(ListSource([lost], public=False), workspace, CONFIG)
    message = str(caught.value)
    assert "(unreadable 1, empty_study 1; the first: file […] is very very" in message
    assert message.endswith("very …); check the path and the files")
    assert len(message.splitlines()) == 1
    assert len(message) < 300


class EmptyServer(ListSource):
    """A server on which nothing matches."""

    def fetched(self, folder, key, *, is_needed):
        return nullcontext()

    def fetch_counts(self):
        raise AssertionError("nothing was fetched")

    def iter_listed(self):
        yield from ()


def test_a_query_that_matches_nothing_is_called_so(workspace):
    with pytest.raises(DataError, match="no study with objects matches the query; change it with"):
        ingest(EmptyServer([], public=False), workspace, CONFIG)


def test_a_repeated_image_counts_once_within_its_study(workspace):
    twin = RawImage(ref="copy.bmp", data=picture(1))
    output, summary = bring(workspace, study("s1", image(1), twin, image(2)))
    assert summary["images"] == {"seen": 3, "kept": 2, "duplicate": 1, "quarantined": 0}
    (kept,) = iter_studies(output.path)
    assert [reference.source_ref for reference in kept.images] == ["1.png", "2.png"]


def test_an_image_of_two_studies_stands_in_the_table_once(workspace):
    output, summary = bring(
        workspace, study("s1", image(1), image(2)), study("s2", image(1), image(3))
    )
    assert summary["images"]["kept"] == 4
    assert summary["unique_images"] == 3
    assert len(image_rows(output)) == 3


def test_a_later_copy_with_another_mask_is_counted(workspace):
    mask = np.zeros((48, 40), np.uint8)
    mask[10:20, 5:15] = 255
    copies = [image(1, mask=mask), image(1, mask=mask), image(1, mask=mask.T.reshape(48, 40))]
    studies = [study(f"s{n}", copy) for n, copy in enumerate(copies)]
    _, summary = bring(workspace, *studies)
    assert (summary["masks"], summary["mask_conflicts"]) == (1, 1)


def test_the_same_study_twice_is_a_duplicate_and_a_changed_one_a_contradiction(workspace):
    one = study("s1", image(1), image(2))
    output, summary = bring(
        workspace,
        one,
        one,
        replace(one, ref="s1-export-2"),
        replace(one, images=(image(1),)),
    )
    assert summary["studies"] == {"seen": 4, "kept": 1, "duplicate": 2, "quarantined": 1}
    assert summary["images"] == {"seen": 7, "kept": 2, "duplicate": 4, "quarantined": 1}
    assert [row["reason"] for row in quarantine(output)] == ["repeated_ref", "study_rejected"]


def test_patients_stay_in_one_split_and_none_moves_when_others_come(workspace):
    studies = [
        study(f"s{n}-{k}", image(2 * n + k), patient=f"p{n}") for n in range(40) for k in range(2)
    ]
    before = {
        kept.patient_key: kept.split
        for kept in iter_studies(bring(workspace, *studies[:40])[0].path)
    }
    output, summary = bring(workspace, *studies)
    after = {}
    for kept in iter_studies(output.path):
        assert after.setdefault(kept.patient_key, kept.split) == kept.split
    assert before.items() <= after.items()
    assert len(before) == 20
    assert len(after) == 40
    assert summary["near_duplicates"] == {"groups": 0, "patients": 0}
    assert {split: sizes["patients"] for split, sizes in summary["splits"].items()} == {
        split: list(after.values()).count(split) for split in ("train", "validation", "test")
    }
    assert sum(sizes["studies"] for sizes in summary["splits"].values()) == 80


@pytest.mark.parametrize("copy", ["same", "jpeg"])
def test_patients_with_one_picture_share_the_split_of_the_smallest_key(workspace, copy):
    """Ten pairs that the key alone would part: each pair shows one picture twice."""
    key = IdentityKey.public()
    config = IngestConfig(splits=SplitFractions(train=0.5, validation=0, test=0.5))

    def data(pair, member):
        pixels = picture(pair, (120, 100))
        return as_jpeg(pixels) if member and copy == "jpeg" else encode_png(pixels)

    studies = [
        study(f"{pair}-{member}", image(pair, ref=f"{pair}{member}", data=data(pair, member)))
        for pair in range(10)
        for member in range(2)
    ]
    output, summary = bring(workspace, *studies, config=config)
    splits = {kept.patient_key: kept.split for kept in iter_studies(output.path)}
    alone = ListSource([replace(each, images=(image(100 + n),)) for n, each in enumerate(studies)])
    lonely = {
        kept.patient_key: kept.split for kept in iter_studies(ingest(alone, workspace, config).path)
    }
    parted = 0
    for pair in range(10):
        keys = [key.patient_key(f"list\0{pair}-{member}") for member in range(2)]
        assert splits[keys[0]] == splits[keys[1]] == lonely[min(keys)]
        parted += lonely[keys[0]] != lonely[keys[1]]
    assert parted > 0
    assert summary["near_duplicates"] == {"groups": 10, "patients": 20}


@pytest.mark.parametrize("public", [False, True])
def test_one_patient_in_two_spellings_is_in_one_split(workspace, public):
    """Ten pairs of names that typing varies, and ten names that are alike and not the same."""
    config = IngestConfig(splits=SplitFractions(train=0.5, validation=0, test=0.5))
    names = [name for n in range(10) for name in (f"P{n}", f" ｐ{n}", f"P-{n}")]
    studies = [study(f"s{n}", image(n), patient=name) for n, name in enumerate(names)]
    output, summary = bring(workspace, *studies, config=config, public=public)
    splits = {kept.study_id: kept.split for kept in iter_studies(output.path)}
    key = IdentityKey.public() if public else IdentityKey.load(workspace)
    found = [splits[key.study_id(f"list\0s{n}" if public else f"s{n}")] for n in range(30)]
    assert found[::3] == found[1::3]
    assert found[::3] != found[2::3]
    assert summary["spellings"] == summary["near_duplicates"] == {"groups": 10, "patients": 20}


def test_black_frames_link_nobody(workspace):
    """Black frames of two sizes, ten of each: equal in every pixel, and no evidence of anything."""
    black = [np.zeros((32, 20 + n % 2), np.uint8) for n in range(20)]
    _, summary = bring(
        workspace, *(study(f"s{n}", image(n, data=pixels)) for n, pixels in enumerate(black))
    )
    assert summary["unique_images"] == 2
    assert summary["near_duplicates"]["groups"] == 0


def test_a_private_source_leaves_no_identifier_behind(workspace):
    studies = [
        study("WANGLI-1970", image(1, ref="WANGLI/1.png"), patient="WANGLI"),
        study("WANGLI-1971", image(2, ref="WANGLI/2.png", data=b"WANGLI"), patient="WANGLI"),
    ]
    output, _ = bring(workspace, *studies, public=False)
    for file in output.path.rglob("*"):
        assert not file.is_file() or b"WANGLI" not in file.read_bytes()
    (kept,) = iter_studies(output.path)
    assert kept.patient_key == IdentityKey.load(workspace).patient_key("WANGLI")
    assert kept.patient_key != IdentityKey.public().patient_key("WANGLI")


def test_a_private_patient_is_one_across_sources_and_a_public_one_is_not(workspace):
    def patient(name, public):
        output, _ = bring(workspace, study("s1", image(1), patient="1"), name=name, public=public)
        return next(iter_studies(output.path)).patient_key

    assert patient("dicom", public=False) == patient("reports", public=False)
    assert patient("busbra", public=True) != patient("phantom", public=True)


def test_an_empty_split_is_said(workspace, caplog):
    bring(workspace, study("s1", image(1)))
    empty = [record.getMessage() for record in caplog.records]
    assert len([line for line in empty if "is empty" in line]) == 2


@pytest.mark.parametrize("public", [True, False])
def test_a_page_that_many_patients_show_is_set_aside_and_links_nobody(workspace, public, caplog):
    """The start page of a scanner in 12 studies, in one alone; with another clock in two."""
    page = picture(99, (120, 100))
    other = page.copy()
    other[5:9, 5:20] = 255
    shown = [other if n < 2 else page for n in range(12)]
    studies = [
        study(f"s{n}", *([] if n == 11 else [image(n)]), image(99, ref=f"{n}-p.png", data=pixels))
        for n, pixels in enumerate(shown)
    ]
    output, summary = bring(workspace, *studies, public=public)
    assert summary["shared_images"] == {"images": 2, "patients": 12}
    assert summary["images"] == {"seen": 23, "kept": 11, "duplicate": 0, "quarantined": 12}
    assert summary["studies"] == {"seen": 12, "kept": 11, "duplicate": 0, "quarantined": 1}
    assert summary["reasons"] == {"empty_study": 1, "shared_image": 12}
    assert summary["unique_images"] == 11
    assert summary["near_duplicates"] == {"groups": 0, "patients": 0}
    assert "into one split" not in caplog.text
    kept = {image.image_id for each in iter_studies(output.path) for image in each.images}
    stored = set()
    for file in (output.path / "images").iterdir():
        stored |= set(pq.read_table(file)["image_id"].to_pylist())
    assert stored == kept
    pages = pq.read_table(output.path / "quarantine.parquet").to_pylist()
    named = sorted(row["source_ref"] for row in pages if row["reason"] == "shared_image")
    assert not public or named == sorted(f"{n}-p.png" for n in range(12))
    config = IngestConfig(shared_image_patients=13)
    _, linked = bring(workspace, *studies, public=public, config=config)
    assert linked["shared_images"]["images"] == 0
    assert linked["near_duplicates"] == {"groups": 1, "patients": 12}
    assert "near duplicates link 100 % of the patients" in caplog.text


def test_a_published_set_keeps_its_identifiers_under_another_name(workspace):
    def patient(name):
        source = PublishedList([study("s1", image(1), patient="1")], name=name)
        output = ingest(source, workspace, CONFIG)
        (kept,) = iter_studies(output.path)
        assert kept.dataset == name
        return kept.patient_key

    key = IdentityKey.public().patient_key("theirs" + "\0" + "1")
    assert patient("theirs") == patient("mine") == key


def test_a_published_split_is_taken_as_it_is(workspace):
    studies = [study(f"s{n}", image(n), split="test" if n < 3 else "train") for n in range(9)]
    _, summary = bring(workspace, *studies)
    assert summary["splits"]["test"]["studies"] == 3
    assert summary["splits"]["train"]["studies"] == 6
    assert summary["parted"] == {"groups": 0, "patients": 0}


def test_a_large_near_duplicate_group_is_said(workspace, caplog):
    same = encode_png(picture(0, (120, 100)))
    studies = [study(f"s{n}", image(n)) for n in range(1, 20)]
    studies += [study(f"t{n}", image(99, data=same)) for n in range(5)]
    bring(workspace, *studies)
    assert "21 % of the patients" in caplog.text


def test_many_images_go_into_files_of_bounded_size(workspace):
    studies = [
        study(
            f"s{n}",
            *(image(0, ref=f"{n}-{k}", data=picture(50 * n + k, (16, 16))) for k in range(50)),
        )
        for n in range(21)
    ]
    output, summary = bring(workspace, *studies)
    assert summary["unique_images"] == 1050
    files = sorted((output.path / "images").iterdir())
    assert [pq.read_metadata(file).num_rows for file in files] == [512, 512, 26]
    assert pq.read_metadata(files[0]).num_row_groups == 8
    places = {
        row: f"images/{file.name}"
        for file in files
        for row in pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
    }
    for kept in iter_studies(output.path):
        for reference in kept.images:
            assert places[reference.image_id] == reference.uri


@pytest.mark.parametrize("public", [True, False])
def test_a_study_that_waits_for_its_turn_holds_no_raw_pixels(tmp_path, public):
    pixels = []

    class Drawn(ListSource):
        def iter_studies(self):
            for seed in range(4):
                drawn = picture(seed)
                pixels.append(weakref.ref(drawn))
                yield study(str(seed), RawImage(ref=f"{seed}.png", data=drawn))
                del drawn

    key = IdentityKey.load(Workspace.open(tmp_path / "ws"))
    source = Drawn([], public=public)
    preparation = Preparation.of(source, key, CONFIG.images, CONFIG)
    prepared = list(prepare_all(source, preparation))
    assert [(each.source_ref, len(each.outcomes)) for each in prepared] == [
        (key.source_ref(str(seed)), 1) for seed in range(4)
    ]
    assert [drawn() for drawn in pixels] == [None] * 4


def test_a_file_that_is_too_large_costs_its_own_row(workspace, tmp_path):
    good, large = tmp_path / "good.png", tmp_path / "large.png"
    good.write_bytes(encode_png(picture(1)))
    with large.open("wb") as file:
        file.truncate(6_000_000_000)  # sparse
    _, summary = bring(
        workspace,
        study("1", image(1, data=good), image(2, data=large), image(3, data=tmp_path / "gone.png")),
    )
    assert summary["images"] == {"seen": 3, "kept": 1, "duplicate": 0, "quarantined": 2}
    assert summary["reasons"] == {"too_many_bytes": 1, "unreadable_file": 1}


def test_the_accounting_must_add_up():
    with pytest.raises(AssertionError):
        Accounting(seen=3, kept=1, duplicate=0, quarantined=1)


raw_images = st.builds(
    lambda seed, kind: {
        "good": image(seed),
        "array": image(seed, data=picture(seed)),
        "bad": image(seed, data=b"\x89PNG broken"),
        "problem": image(seed, problem="missing_file: gone"),
    }[kind],
    st.integers(0, 5),
    st.sampled_from(["good", "array", "bad", "problem"]),
)
raw_studies = st.builds(
    lambda ref, patient, images, kind: study(
        f"s{ref}",
        *images,
        patient=f"p{patient}",
        **{"good": {}, "mute": {"turns": ()}, "broken": {"problem": "broken: x"}}[kind],
    ),
    st.integers(0, 5),
    st.integers(0, 3),
    st.lists(raw_images, max_size=4),
    st.sampled_from(["good", "good", "good", "mute", "broken"]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(raw_studies, max_size=8))
def test_everything_seen_is_accounted_for(tmp_path_factory, studies):
    workspace = Workspace.open(tmp_path_factory.mktemp("ws"))
    studies = [study("first", image(77)), *studies]
    output, summary = bring(workspace, *studies)
    assert summary["studies"]["seen"] == len(studies)
    assert summary["images"]["seen"] == sum(len(each.images) for each in studies)
    for counts in (summary["studies"], summary["images"]):
        assert counts["seen"] == counts["kept"] + counts["duplicate"] + counts["quarantined"]
    kept = list(iter_studies(output.path, complete=False))
    assert len(kept) == summary["studies"]["kept"]
    incomplete = summary["without_text"] + summary["without_images"]
    assert len(list(iter_studies(output.path))) == len(kept) - incomplete
    assert sum(len(each.images) for each in kept) == summary["images"]["kept"]
    assert len({each.study_id for each in kept}) == len(kept)
    table = pq.read_table(output.path / "quarantine.parquet")
    assert table.schema == QUARANTINE_SCHEMA
    reasons = Counter(table["reason"].to_pylist())
    assert reasons == summary["reasons"]
    assert reasons.total() == summary["studies"]["quarantined"] + summary["images"]["quarantined"]
    ids = {reference.image_id for each in kept for reference in each.images}
    assert sorted(row["image_id"] for row in image_rows(output)) == sorted(ids)
    split_of_image = {}
    for each in kept:
        for reference in each.images:
            assert split_of_image.setdefault(reference.image_id, each.split) == each.split


def transparent(seed):
    """A picture with a visible half, and noise under the transparent one."""
    pixels = picture(seed)
    alpha = np.zeros_like(pixels)
    alpha[:, :20] = 255
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([pixels, alpha]), "LA").save(buffer, "PNG")
    return buffer.getvalue(), np.where(alpha > 0, pixels, 0).astype(np.uint8)


@pytest.mark.parametrize("public", [True, False])
def test_decisions_about_kept_images_are_counted_and_told(workspace, public):
    data, shown = transparent(1)
    broken = image(2, problem="truncated: it ends too soon")
    other = image(5, problem="other_modality: CT")
    raw = study(
        "s1",
        RawImage(ref="a.png", data=data),
        image(3, remarks=("recoloured: read as YBR",)),
        broken,
        other,
        remarks={"impossible_charset: read as GB18030": 3},
    )
    rejected = study("s2", RawImage(ref="b.png", data=transparent(4)[0]), problem="bad: so")
    whole = study("s3", image(6), other)
    output, summary = bring(workspace, raw, rejected, whole, public=public)
    assert summary["remarks"] == {
        "impossible_charset: read as GB18030": 3,
        "recoloured: read as YBR": 1,
        "transparent_pixels: transparent pixels laid over black": 1,
    }
    assert summary["partly_read"] == 1
    kept, undisturbed = iter_studies(output.path)
    assert "could not be used" not in undisturbed.provenance
    for told in (
        "transparent pixels laid over black (1)",
        "read as YBR (1)",
        "read as GB18030 (3)",
        "1 of 4 images could not be used (truncated 1)",
    ):
        assert told in kept.provenance
    assert kept.images[0].image_id == image_id(shown)


def test_the_mask_of_no_lesion_may_be_transparent_throughout(workspace):
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 48), (255, 255, 255, 0)).save(buffer, "PNG")
    output, summary = bring(workspace, study("s1", image(1, mask=buffer.getvalue())))
    assert summary["images"]["kept"] == 1
    assert summary["remarks"] == {}
    (row,) = image_rows(output)
    assert not np.asarray(Image.open(io.BytesIO(row["mask_png"]))).any()
