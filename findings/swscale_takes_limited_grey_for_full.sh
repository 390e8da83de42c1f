#!/usr/bin/env bash
# FFmpeg 8.1's libswscale (through PyAV 18.1): luminance of limited range becomes RGB of limited range
# where the stream has no chroma, while the same values with chroma at rest are expanded.
#
# Version: av 18.1.0, libswscale 9.5.
# What one would expect: two lossless FFV1 streams say that their range is limited (16 is black, 235
# white). One is 4:2:0 with all chroma at 128, the other 4:0:0 (gray). Both show the same picture.
# What happens: the frame of either says that its range is limited. Converted to rgb24, 16 and 235 of
# the first become 0 and 255, those of the second stay 16 and 235: a picture of less contrast, without
# a word. HEVC 4:0:0 behaves alike.
# Seen: the ends of a ramp after the conversion. The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy>=2"
cat >"$scratch/ramp.py" <<'PYTHON'
import io

import av
import numpy as np

LIMITED = 1
ramp = np.tile(np.linspace(16, 235, 64).astype(np.uint8), (48, 1))
chroma = np.full((24, 64), 128, np.uint8)


def ends(pixel_format, planes):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.codec_context.color_range = LIMITED
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format=pixel_format)))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        (frame,) = container.decode(video=0)
    assert frame.color_range == LIMITED, frame.color_range
    return frame.to_ndarray(format="rgb24")[5, [0, -1], 0].tolist()


found = {
    "yuv420p": ends("yuv420p", np.concatenate([ramp, chroma])),
    "gray": ends("gray", ramp),
}
print(found)
assert found == {"yuv420p": [0, 255], "gray": [16, 235]}
PYTHON
"$scratch/venv/bin/python" "$scratch/ramp.py"
