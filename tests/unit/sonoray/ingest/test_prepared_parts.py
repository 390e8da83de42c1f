"""Parts: what is written comes back, and a part is there whole or not at all."""

import stat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sonoray.errors import DataError
from sonoray.images.decode import DEFAULT_LIMITS, encode_png
from sonoray.ingest.prepare import Preparation, PreparedStudy
from sonoray.ingest.prepared_parts import open_parts, part_name, read_part, remove_parts, write_part
from sonoray.privacy.deidentify import DeidentifyConfig
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import Task, Turn
from sonoray.study.raw import RawImage, RawStudy

SIDE = 24


def picture(seed: int, **changes: object) -> RawImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    return RawImage(ref=f"WANGLI/{seed}.png", data=encode_png(pixels), **changes)


def studies() -> list[PreparedStudy]:
    turn = Turn(
        question="左侧？", answer="是", task=Task.CLOSED, options=("是", "否"), topic="side"
    )
    glass = np.zeros((SIDE, SIDE, 4), np.uint8)
    glass[: SIDE // 2] = 255
    raws = [
        RawStudy(
            ref="WANGLI-1",
            patient_ref="WANGLI",
            images=(
                picture(1, labels={"caption": "病灶"}, frame_index=7),
                picture(2, mask=np.eye(SIDE, dtype=np.uint8)),
                RawImage(ref="bad.png", data=b"", problem="missing_file: no file 'WANGLI.png'"),
                RawImage(ref="blank.png", data=np.zeros((SIDE, SIDE), np.uint8)),
                RawImage(ref="glass.png", data=as_png(glass)),
            ),
            turns=(turn,),
            labels={"organ": "breast"},
            provenance="a list",
            remarks={"odd: an odd thing": 2},
            split="test",
        ),
        RawStudy(ref="WANGLI-2", patient_ref="WANGLI", images=(), turns=(turn,)),
        RawStudy(ref="r:4", patient_ref="r", images=(), turns=(), problem="odd: x", is_row=True),
    ]
    preparation = Preparation(
        scope=None,
        key=IdentityKey(b"k" * 32),
        limits=DEFAULT_LIMITS,
        policy=DeidentifyConfig(burned_in_text="keep"),
    )
    return [preparation.prepare(raw) for raw in raws]


def as_png(pixels: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / part_name(3)
    write_part(path, iter(studies()))
    assert list(read_part(path)) == studies()
    assert any(each.remarks.get("odd: an odd thing") == 2 for each in read_part(path))
    assert [each.split for each in read_part(path)] == ["test", "", ""]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_names_nobody(tmp_path):
    path = tmp_path / part_name(0)
    write_part(path, studies())
    assert b"WANGLI" not in path.read_bytes()


def test_a_study_of_many_images_is_read_in_groups(tmp_path):
    first, *_ = studies()
    many = first.outcomes * 50
    wide = PreparedStudy(
        **{name: getattr(first, name) for name in PreparedStudy.__slots__} | {"outcomes": many}
    )
    path = tmp_path / part_name(0)
    write_part(path, [wide, first])
    assert pq.read_metadata(path).num_row_groups == 5  # 257 rows
    assert list(read_part(path)) == [wide, first]


def test_what_fails_midway_leaves_nothing(tmp_path):
    def failing():
        yield from studies()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_part(tmp_path / part_name(0), failing())
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_has_the_parts(tmp_path):
    folder = tmp_path / "parts" / "d"
    with open_parts(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with pytest.raises(DataError, match="another ingest uses the parts"), open_parts(folder):
            pass
    with open_parts(folder):
        pass


def test_parts_of_another_stage_go_and_at_the_end_all(tmp_path):
    folder = tmp_path / "d"
    with open_parts(folder):
        for name in ("old", "new"):
            (folder / name).mkdir()
            Path(folder, name, part_name(0)).touch()
        remove_parts(folder, keep="new")
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["new"]
        remove_parts(folder)
    assert not folder.exists()
