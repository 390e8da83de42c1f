"""What is read and what is refused: every row of the tables in docs/sources.md, tried.

An object or a file of each syntax, class, container and codec is made from scratch and read. What
comes out must be what its row says, in the pages of both languages. After a change,
`SONORAY_WRITE_TABLES=1 pytest tests/unit/sonoray/ingest/test_read_tables.py` writes the rows anew.
"""

import os
import re
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    HEVCMP51,
    HTJ2K,
    JPEG2000,
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    EnhancedUSVolumeStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    JPIPHTJ2KReferenced,
    MPEGTransferSyntaxes,
    MRImageStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from sonoray.errors import DataError
from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.images.loops import read_loop, suffix_of
from sonoray.images.video import VideoConfig
from sonoray.ingest.dicom.containers import BytesEntry, list_entries
from sonoray.ingest.dicom.dicom_config import DicomConfig, DicomLimits
from sonoray.ingest.dicom.header import SYNTAXES, read_header
from sonoray.ingest.dicom.kinds import LABEL_MAP, Kind, class_name
from sonoray.ingest.dicom.objects import decode_object, describe_object

ROOT = Path(__file__).resolve().parents[4]
PAGES = {"en": ROOT / "docs" / "sources.md", "zh": ROOT / "docs" / "zh" / "sources.md"}
CONFIG, LIMITS = DicomConfig(), ImageLimits()

# of DICOM, what pydicom has no name for
NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
JPIP = UID("1.2.840.10008.1.2.4.94")
REFUSED = (
    DeflatedExplicitVRLittleEndian,
    UID("1.2.840.10008.1.2.1.98"),
    UID("1.2.840.10008.1.2.4.92"),
    UID("1.2.840.10008.1.2.4.93"),
    JPIP,
    UID("1.2.840.10008.1.2.4.95"),
    JPIPHTJ2KReferenced,
    *map(UID, NAMES),
)
HIGH_THROUGHPUT = [
    syntax for syntax in JPEG2000TransferSyntaxes if "High-Throughput" in syntax.name
]
LOSSY = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEG2000,
    HTJ2K,
    *MPEGTransferSyntaxes,
)
CLASSES = {
    "ultrasound": (UltrasoundImageStorage, "US"),
    "loop": (UltrasoundMultiFrameImageStorage, "US"),
    "retired": (UID("1.2.840.10008.5.1.4.1.1.6"), "US"),
    "retired loop": (UID("1.2.840.10008.5.1.4.1.1.3"), "US"),
    "intravascular": (UltrasoundMultiFrameImageStorage, "IVUS"),
    "volume": (EnhancedUSVolumeStorage, "US"),
    "velocities": (EnhancedUSVolumeStorage, "US, velocities"),
    "capture": (SecondaryCaptureImageStorage, "US"),
    "worksheet": (SecondaryCaptureImageStorage, "OT"),
    "CR": (ComputedRadiographyImageStorage, "CR"),
    "DX": (DigitalXRayImageStorageForPresentation, "DX"),
    "MG": (DigitalMammographyXRayImageStorageForPresentation, "MG"),
    "CT": (CTImageStorage, "CT"),
    "MR": (MRImageStorage, "MR"),
    "dose": (RTDoseStorage, "RTDOSE"),
    "map": (ParametricMapStorage, "US"),
    "private": (UID("1.3.46.670589.2.5.1.1"), "US"),
    "SEG": (SegmentationStorage, "SEG"),
    "label map": (LABEL_MAP, "SEG"),
    "report": (BasicTextSRStorage, "SR"),
    "presentation": (GrayscaleSoftcopyPresentationStateStorage, "PR"),
    "document": (EncapsulatedPDFStorage, "DOC"),
}
WITHOUT_PIXELS = ("report", "presentation", "document")
CODECS = {
    "h264": ("libx264", "yuv420p"),
    "hevc": ("libx265", "yuv420p"),
    "av1": ("libsvtav1", "yuv420p"),
    "vp8": ("libvpx", "yuv420p"),
    "vp9": ("libvpx-vp9", "yuv420p"),
    "mpeg1video": ("mpeg1video", "yuv420p"),
    "mpeg2video": ("mpeg2video", "yuv420p"),
    "mpeg4": ("mpeg4", "yuv420p"),
    "mjpeg": ("mjpeg", "yuvj420p"),
    "ffv1": ("ffv1", "bgr0"),
    "gif": ("gif", "rgb8"),
    "wmv2": ("wmv2", "yuv420p"),
    "flv1": ("flv", "yuv420p"),
}
CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".gif")
OTHERS = (".asf", ".flv", ".ogv")
"""Read under no ending: made under their own and named `.mp4`."""
WORDS = {
    "transfer syntax": "传输语法",
    "name": "名称",
    "pixels": "像素",
    "counted": "计入",
    "read exactly": "精确读取",
    "read": "读取",
    "under its study": "其检查",
    "among the files of no study": "不属于任何检查的文件",
    "refused": "拒绝",
    "SOP class": "SOP 类",
    "by default": "默认",
    "with `dicom.modalities` of it": "`dicom.modalities` 含其模态时",
    "picture": "图片",
    "mask of the pictures that it outlines": "所指图片的轮廓",
    "`1.2.840.10008.5.1.4.1.1.6.2` US, velocities": "`1.2.840.10008.5.1.4.1.1.6.2` US，速度",
    "what is given": "给出的是",
    "what becomes of it": "结果",
    "folder": "目录",
    "zip, stored": "zip，未压缩",
    "zip, deflated": "zip，deflate",
    "zip, bzip2": "zip，bzip2",
    "zip, encrypted": "zip，加密",
    "tar": "tar",
    "one object": "单个对象",
    "file that is no object": "不是对象的文件",
    "index of a medium (DICOMDIR)": "介质索引（DICOMDIR）",
    "the command ends": "命令结束",
    "container": "容器",
    "codecs": "编码",
}


def entry(data):
    return BytesEntry(ref="x", data=data, max_bytes=10**7)


def reason_of(problem):
    return f"refused: `{str(problem).partition(':')[0]}`"


def lossless_jpeg(picture):
    """Process 14 of T.81 with the first predictor and codes of four bits."""
    values = picture.astype(int)
    predicted = np.full_like(values, 128)
    predicted[1:, 0], predicted[:, 1:] = values[:-1, 0], values[:, :-1]
    bits = ""
    for step in (values - predicted).ravel().tolist():
        size = abs(step).bit_length()
        bits += f"{size:04b}"
        bits += f"{step if step > 0 else step + (1 << size) - 1:0{size}b}" if size else ""
    bits += "1" * (-len(bits) % 8)
    coded = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))

    def segment(marker, body):
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    return b"".join(
        (
            b"\xff\xd8",
            segment(0xC3, struct.pack(">BHHB3B", 8, *picture.shape, 1, 1, 0x11, 0)),
            segment(0xC4, bytes([0, 0, 0, 0, 9, *[0] * 12, *range(9)])),
            segment(0xDA, bytes([1, 1, 0, 1, 0, 0])),
            coded.replace(b"\xff", b"\xff\0"),
            b"\xff\xd9",
        )
    )


def jpeg_ls(picture):
    """As FFmpeg writes it."""
    encoder = av.CodecContext.create("jpegls", "w")
    encoder.height, encoder.width = picture.shape
    encoder.pix_fmt, encoder.time_base = "gray", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture, format="gray")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


HEADS = {
    "syntaxes": ("transfer syntax", "name", "pixels", "counted"),
    "classes": ("SOP class", "name", "by default", "with `dicom.modalities` of it"),
    "boxes": ("what is given", "what becomes of it"),
    "videos": ("container", "codecs"),
}
ROWS = {
    "syntaxes": [f"`{syntax}`" for syntax in (*SYNTAXES, *REFUSED)],
    "classes": [f"`{sop_class}` {modality}" for sop_class, modality in CLASSES.values()],
    "boxes": [
        "folder",
        "zip, stored",
        "zip, deflated",
        "zip, bzip2",
        "zip, encrypted",
        "tar",
        "one object",
        "file that is no object",
        "index of a medium (DICOMDIR)",
    ],
    "videos": [f"`{suffix}`" for suffix in (*CONTAINERS, *OTHERS)],
}
"""First cells of the tables."""


def line_of(cells, language):
    """A row in the words of a language."""

    def said(cell):
        for word in sorted(WORDS, key=len, reverse=True) if language == "zh" else ():
            if cell == word or cell.startswith(f"{word}: "):
                return cell.replace(f"{word}: ", f"{WORDS[word]}：").replace(word, WORDS[word])
            cell = cell.replace(f" ({word})", f"（{WORDS[word]}）")
        return cell

    return f"| {' | '.join(map(said, cells))} |"


def read_table(text, table):
    """The lines of a table on a page."""
    return re.search(rf"<!-- {table} -->\n\n((?:\|.*\n)*)", text)[1].splitlines()


def check_row(table, *cells):
    """Hold both pages to a row, or write it into them where that is asked for."""
    number = ROWS[table].index(cells[0]) + 2  # below the head
    for language, page in PAGES.items():
        line = line_of(cells, language)
        if not os.environ.get("SONORAY_WRITE_TABLES"):
            assert read_table(page.read_text(encoding="utf-8"), table)[number:][:1] == [line]
            continue
        text = page.read_text(encoding="utf-8")
        lines = [
            line_of(HEADS[table], language),
            "|---" * len(HEADS[table]) + "|",
            *read_table(text, table)[2:],
        ]
        lines += [""] * (number + 1 - len(lines))
        lines[number] = line
        start = text.index(f"<!-- {table} -->\n\n") + len(f"<!-- {table} -->\n\n")
        rest = re.sub(r"\A(?:\|.*\n)*", "", text[start:])
        page.write_text(
            text[:start] + "\n".join(lines) + "\n\n" + rest.lstrip("\n"), encoding="utf-8"
        )


@pytest.mark.parametrize("table", ROWS)
@pytest.mark.parametrize("language", PAGES)
def test_the_pages_have_every_row_and_no_other(language, table):
    lines = read_table(PAGES[language].read_text(encoding="utf-8"), table)
    assert lines[0] == line_of(HEADS[table], language)
    first = [f"{line.split(' | ')[0].removesuffix(' |')} |" for line in lines[2:]]
    assert first == [line_of([cell], language) for cell in ROWS[table]]


@pytest.fixture
def make_coded(make_object, make_picture, htj2k, write_video, tmp_path):
    """A picture, and an object that holds it in a transfer syntax."""

    def make(syntax):
        picture = make_picture(rows=16, columns=20) if syntax in HIGH_THROUGHPUT else make_picture()
        given = {}
        if syntax in HIGH_THROUGHPUT:
            given["frames"] = [htj2k["grey"]]
        elif syntax in (JPEGLossless, JPEGLosslessSV1):
            given["frames"] = [lossless_jpeg(picture)]
        elif syntax in JPEGLSTransferSyntaxes:
            given["frames"] = [jpeg_ls(picture)]
        elif syntax == JPEGExtended12Bit:
            baseline = decoded_frame(make_object(picture[None], JPEGBaseline8Bit))
            given["frames"] = [baseline.replace(b"\xff\xc0", b"\xff\xc1")]
        elif syntax in MPEGTransferSyntaxes:
            picture = np.full((48, 64), 100, np.uint8)
            given["frames"] = [video_of(syntax, write_video, tmp_path)]
            given["PhotometricInterpretation"] = "MONOCHROME2"
        elif syntax in REFUSED and syntax != DeflatedExplicitVRLittleEndian:
            given["frames"] = [b"unread"]
        if syntax not in NAMES:
            return picture, make_object(picture[None], syntax, **given)
        known = HEVCMP51 if len(syntax) == len(HEVCMP51) else JPIP  # pydicom writes no others
        data = make_object(picture[None], known, **given)
        return picture, data.replace(known.encode(), syntax.encode().ljust(len(known), b"\0"))

    return make


def decoded_frame(data):
    """The codestream of an object of one frame."""
    start = data.index(b"\xff\xd8")
    return data[start : data.rindex(b"\xff\xd9") + 2]


def video_of(syntax, write_video, folder):
    number = int(syntax.removeprefix("1.2.840.10008.1.2.4.").partition(".")[0])
    codec = "mpeg2video" if number < 102 else "libx264" if number < 107 else "libx265"
    options = {"x265-params": "log-level=none"} if codec == "libx265" else None
    luminance = [16 + round(100 * 219 / 255)]
    path = write_video(folder / "a.ts", codec, "yuv420p", luminance, rate=25, options=options)
    return path.read_bytes()


@pytest.mark.parametrize("syntax", [*SYNTAXES, *REFUSED], ids=lambda syntax: syntax[17:] or "0")
def test_a_transfer_syntax_is_read_or_refused_by_name(make_coded, syntax):
    picture, data = make_coded(syntax)
    name = NAMES.get(syntax) or syntax.name
    where = "under its study"
    try:
        info = describe_object(entry(data), CONFIG, LIMITS)
    except RejectedImageError as error:
        info, problem, where = None, str(error), "among the files of no study"
    else:
        problem = info.problem
    if problem:
        assert syntax in REFUSED
        assert problem.startswith(f"unsupported_syntax: {name}")
        result = reason_of(problem)
    else:
        assert info.study_uid == "1.2.3"
        shown = decode_object(entry(data), CONFIG, LIMITS).frames[0].pixels
        grey = shown if shown.ndim == 2 else shown.mean(axis=2)
        assert np.abs(grey.astype(int) - picture).max() <= 12
        assert syntax in SYNTAXES
        if syntax not in LOSSY:
            np.testing.assert_array_equal(shown, picture)
        result = "read" if syntax in LOSSY else "read exactly"
    check_row("syntaxes", f"`{syntax}`", name, result, where)


def groups(keyword, **attributes):
    """Functional groups that all frames share, with one macro."""
    item, found = Dataset(), Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    setattr(found, keyword, Sequence([item]))
    return Sequence([found])


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_read_or_refused_by_name(make_object, make_picture, kind):
    sop_class, named = CLASSES[kind]
    modality = named.partition(",")[0]
    given = {"SOPClassUID": sop_class, "Modality": modality}
    if kind in ("volume", "velocities"):
        held = "TISSUE_INTENSITY" if kind == "volume" else "FLOW_VELOCITY"
        given["SharedFunctionalGroupsSequence"] = groups("ImageDataTypeSequence", DataType=held)
    data = make_object(make_picture()[None], **given)
    if kind in WITHOUT_PIXELS:
        data = data[: data.rindex(b"\xe0\x7f\x10\x00")]

    def read(config):
        info = describe_object(entry(data), config, LIMITS)
        if info.kind is Kind.SEGMENTATION:
            return "mask of the pictures that it outlines"
        try:
            if info.problem:
                raise RejectedImageError(info.problem)
            decoded = decode_object(entry(data), config, LIMITS)
        except RejectedImageError as error:
            return reason_of(error)
        np.testing.assert_array_equal(decoded.frames[0].pixels, make_picture())
        return "picture"

    opened = DicomConfig(modalities=("US", modality))
    first = f"`{sop_class}` {named}"
    check_row("classes", first, class_name(sop_class), read(CONFIG), read(opened))


def write_zip(path, data, *, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.dcm", data)
    return path


def test_a_place_of_objects_is_read_or_refused_by_name(make_object, make_picture, tmp_path):
    data = make_object(make_picture()[None])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.dcm").write_bytes(data)
    (tmp_path / "index").mkdir()
    index = data.replace(
        UltrasoundMultiFrameImageStorage.encode() + b"\0", b"1.2.840.10008.1.3.10".ljust(28, b"\0")
    )
    (tmp_path / "index" / "DICOMDIR").write_bytes(index)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "README.txt").write_text("no object")
    (tmp_path / "one.dcm").write_bytes(data)
    (tmp_path / "a.tar").write_bytes(b"a.dcm".ljust(512, b"\0") + data)
    locked = write_zip(tmp_path / "locked.zip", data)
    content = bytearray(locked.read_bytes())
    for start in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[start] |= 1
    locked.write_bytes(content)
    places = {
        "folder": tmp_path / "folder",
        "zip, stored": write_zip(tmp_path / "stored.zip", data),
        "zip, deflated": write_zip(tmp_path / "deflated.zip", data, method=zipfile.ZIP_DEFLATED),
        "zip, bzip2": write_zip(tmp_path / "bzip2.zip", data, method=zipfile.ZIP_BZIP2),
        "zip, encrypted": locked,
        "tar": tmp_path / "a.tar",
        "one object": tmp_path / "one.dcm",
        "file that is no object": tmp_path / "text",
        "index of a medium (DICOMDIR)": tmp_path / "index",
    }
    for name, path in places.items():
        try:
            (found,) = list_entries(path, DicomLimits())
            with found.open() as file:
                assert read_header(file).pixel_offset
            result = "read"
        except RejectedImageError as error:
            result = reason_of(error)
        except DataError:
            result = "the command ends"
        check_row("boxes", name, result)
    assert list(places) == ROWS["boxes"]


def write_codec(path, codec):
    """Write 12 even frames; False where the container does not take the codec."""
    encoder, pixel_format = CODECS[codec]
    options = {"x265-params": "log-level=none"} if encoder == "libx265" else {}
    if encoder == "libsvtav1":
        options = {"preset": "12", "svtav1-params": "lp=1"}
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(encoder, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 64, 64, pixel_format
            for value in range(40, 220, 15):
                even = np.full((64, 64, 3), value, np.uint8)
                frame = av.VideoFrame.from_ndarray(even, format="rgb24")
                container.mux(stream.encode(frame.reformat(format=pixel_format)))
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError):
        return False
    return True


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_video_is_read_in_every_codec_that_its_container_takes(tmp_path, suffix):
    assert suffix_of(f"a{suffix}") == suffix
    taken = []
    for codec in CODECS:
        path = tmp_path / f"{codec}{suffix}"
        if not write_codec(path, codec):
            continue
        try:
            loop = read_loop([path], VideoConfig(max_frames=12))
        except RejectedImageError:  # a container may take what it cannot name again
            continue
        shown = [float(frame.pixels.mean()) for frame in loop.frames]
        np.testing.assert_allclose(shown, range(40, 220, 15), atol=14)
        taken.append(f"`{codec}`")
    assert taken
    check_row("videos", f"`{suffix}`", " ".join(taken))


@pytest.mark.parametrize("suffix", OTHERS)
def test_a_video_of_another_format_is_refused_whatever_it_is_called(tmp_path, suffix):
    codec = {"asf": "wmv2", "flv": "flv1", "ogv": "vp8"}[suffix[1:]]
    path = tmp_path / f"a{suffix}"
    assert write_codec(path, codec)
    assert not suffix_of(path.name)
    with pytest.raises(RejectedImageError) as caught:
        read_loop([path.rename(tmp_path / "a.mp4")], VideoConfig())
    check_row("videos", f"`{suffix}`", reason_of(caught.value))
