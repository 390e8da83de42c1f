"""Kubernetes quantities such as `500m` and `16Gi`, as numbers."""

import re

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}


def to_number(quantity: object) -> float:
    """Read a quantity: CPUs, bytes or a plain count.

    Raises:
        ValueError: it is none.
    """
    found = _PATTERN.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity; write it like 500m, 4 or 16Gi")
    return float(found[1]) * _FACTORS[found[2] or ""]


def check_quantity(quantity: str) -> str:
    """Return the quantity as it stands, for pydantic.

    Raises:
        ValueError: it is none, or it is 0.
    """
    if to_number(quantity) <= 0:
        raise ValueError(f"{quantity!r} is nothing; write a quantity above 0")
    return quantity
