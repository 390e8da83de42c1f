import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sonoray.privacy import text_reader
from sonoray.privacy.text_reader import read_line


def line(text, size=24, fill=255, ground=0):
    font = ImageFont.load_default(size)
    left, upper, right, lower = font.getbbox(text)
    room = size // 3
    image = Image.new("L", (right - left + 2 * room, lower - upper + 2 * room), ground)
    ImageDraw.Draw(image).text((room - left, room - upper), text, font=font, fill=fill)
    return np.asarray(image)


@pytest.mark.parametrize("size", [12, 24, 60])
@pytest.mark.parametrize(("fill", "ground"), [(255, 0), (20, 230)])
def test_a_line_is_read(size, fill, ground):
    crop = line("QXVOR 48210377", size, fill, ground)
    for picture in (crop, np.repeat(crop[..., None], 3, axis=2)):
        reading = read_line(picture)
        assert reading.text == "QXVOR 48210377"
        assert 11 < reading.sum_chances <= 12  # of the characters that differ


def test_the_places_of_its_characters_are_columns_of_the_crop():
    crop = np.pad(line("QXVOR 48210377"), ((0, 0), (100, 300)))
    ink = np.flatnonzero(crop.any(axis=0))
    places = read_line(crop).places
    assert 12 <= len(places) <= 14
    assert (np.diff(places) > 0).all()
    assert abs(places[0] - ink[0] - 8) < 12
    assert abs(places[-1] - ink[-1] + 8) < 12


@pytest.mark.parametrize("shape", [(40, 300), (1, 1), (300, 4), (9, 4000)])
def test_nothing_is_read_where_nothing_is(shape):
    reading = read_line(np.zeros(shape, np.uint8))
    assert (reading.text, len(reading.places)) == ("", 0)


def test_it_runs_on_one_thread():
    read_line(line("QXVOR"))
    options = text_reader._loaded[0].session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_what_reads_pictures_loads_no_recogniser_before_it_needs_one():
    code = (
        "import sys, sonoray.ingest.prepare, sonoray.privacy.deidentify\n"
        "assert not {'cv2', 'scipy', 'onnxruntime'} & set(sys.modules)\n"
        "import numpy as np\n"
        "from sonoray.privacy.burned_in_text import find_text\n"
        "assert find_text(np.zeros((300, 400), np.uint8)) == []\n"
        "assert not {'onnxruntime', 'torch', 'rapidocr'} & set(sys.modules)\n"
        "from sonoray.privacy.text_reader import read_line\n"
        "read_line(np.zeros((48, 96), np.uint8))\n"
        "assert 'onnxruntime' in sys.modules\n"
        "assert not {'torch', 'rapidocr'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
