"""Kinds of text in a site file: how each is written, and an example that an error shows."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

_OBJECT = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_HOST = r"[\w.-]+(:\d+)?"
_CRON_FIELD = re.compile(r"[\d*/,\-]+")
_CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def _check_cron(value: str) -> str:
    fields = value.split()
    for field, (least, most) in zip(fields, _CRON_RANGES, strict=False):
        numbers = [int(number) for number in re.findall(r"\d+", field)]
        steps = [int(number) for number in re.findall(r"/(\d+)", field)]
        bad = not _CRON_FIELD.fullmatch(field) or any(
            not least <= number <= most for number in numbers if number not in steps
        )
        if bad:
            raise ValueError(f"{field!r} is no field; as in 0 2 * * *")
    if fields and len(fields) != len(_CRON_RANGES):
        raise ValueError(f"it has {len(fields)} fields, not 5; as in 0 2 * * *")
    return value


Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", examples=["breast-2"])]
"""Of an object that other names are made from, hence short."""
SecretName = Annotated[str, Field(pattern=rf"^({_OBJECT})?$", examples=["database-login"])]
"""Of a Secret; empty for none."""
ImageName = Annotated[str, Field(pattern=r"^[\w./:-]*\w$", examples=["registry.example/sonoray"])]
ImageTag = Annotated[str, Field(pattern=r"^(\w[\w.-]*)?$", examples=["0.1.0-ray2.60.0"])]
ImageDigest = Annotated[
    str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$", examples=["sha256:" + 64 * "0"])
]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", examples=[64 * "0"])]
ResourceName = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", examples=["nvidia.com/gpu"])]
TimeZone = Annotated[
    str, Field(pattern=r"^[A-Za-z]+(/[A-Za-z0-9_+-]+)*$", examples=["Asia/Shanghai"])
]
ModelUri = Annotated[
    str,
    Field(
        pattern=r"^(models:/[\w.-]+(/\d+|@[\w.-]+))?$",
        examples=["models:/phantom/3", "models:/phantom@champion"],
    ),
]
HostName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", examples=["ultrasound.example"])
]
Address = Annotated[str, Field(pattern=r"^([\w.-]+:\d+)?$", examples=["redis.example:6379"])]
Bucket = Annotated[str, Field(pattern=r"^(s3://[\w.-]+(/[\w./-]*)?)?$", examples=["s3://mlflow"])]
Origin = Annotated[
    str, Field(pattern=rf"^(https?://{_HOST}/?)?$", examples=["https://objects.example:9000"])
]
Url = Annotated[
    str,
    Field(pattern=rf"^(https?://{_HOST}(/[\w./-]*)?)?$", examples=["https://pacs.example/web"]),
]
Cron = Annotated[str, AfterValidator(_check_cron)]
"""When something runs again: minute, hour, day, month, day of the week; empty for never."""
