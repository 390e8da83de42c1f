"""Helpers for tests of the service and of its clients."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sonoray.images.decode import Pixels, encode_png

QUESTION = "图像显示什么?"


def random_study(num_images: int, *, seed: int = 0) -> list[Pixels]:
    """Greyscale noise images of 60 x 80 pixels, uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (60, 80), dtype=np.uint8) for _ in range(num_images)]


def to_data_url(data: bytes, media_type: str = "image/png") -> str:
    """Encoded bytes as a data: URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def user_message(images: Sequence[Pixels], question: str = QUESTION) -> dict[str, Any]:
    """A user's message with a question and a study, as OpenAI clients send it."""
    parts = [
        {"type": "image_url", "image_url": {"url": to_data_url(encode_png(image))}}
        for image in images
    ]
    return {"role": "user", "content": [{"type": "text", "text": question}, *parts]}


def chat_body(
    images: Sequence[Pixels],
    question: str = QUESTION,
    **extra: Any,  # noqa: ANN401 - JSON values
) -> dict[str, Any]:
    """A whole request for the model `llava-ultra`; `extra` adds or replaces fields."""
    body = {
        "model": "llava-ultra",
        "messages": [user_message(images, question)],
        "max_tokens": 16,
    }
    return {**body, **extra}


def dicom_object(
    seed: int = 0, *, study: str = "1.2.826.1", patient: str = "P1", num_frames: int = 2
) -> bytes:
    """A loop of noise of 60 x 80 pixels as a DICOM file of ultrasound."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num_frames, 60, 80), dtype=np.uint8)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.SpecificCharacterSet = "GB18030"
    data.StudyInstanceUID, data.SeriesInstanceUID = study, f"{study}.2"
    data.SOPInstanceUID = f"{study}.2.{seed}"
    data.PatientID, data.PatientName, data.Modality = patient, "Wang^Wei=王^伟", "US"
    data.PatientBirthDate, data.PatientSex, data.AccessionNumber = "19700102", "F", "A1"
    data.StudyDate, data.StudyTime, data.StudyID = "20260102", "101112", "S1"
    data.SamplesPerPixel, data.NumberOfFrames = 1, num_frames
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[1:]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB"
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    return file.getvalue()
