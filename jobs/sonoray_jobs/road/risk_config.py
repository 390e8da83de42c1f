"""Patient columns in a risk model (`sonoray risk`), in prompts and as a tool."""

from typing import Literal

from pydantic import Field

from sonoray.config.model import Config

Layer = Literal["values", "knowledge", "risk"]
"""What is told in front of a question: the patient's columns, what the risk model learned of them,
the patient's risk by it."""


class RiskConfig(Config):
    """What is predicted of a patient, from which columns, and who is compared."""

    outcome: str = Field(default="pathology", min_length=1)
    """A closed question's topic or a label."""
    positive: str = Field(default="malignant", min_length=1)
    """Its option or value whose risk is told."""
    columns: tuple[str, ...] = ()
    """Labels, or columns of the table, to predict from; empty takes all that do not tell the
    outcome."""
    codes: tuple[str, ...] = ()
    """Columns of numbers that are names of something, and no measurements."""
    leak_from: float = Field(default=0.98, gt=0.5, le=1)
    """Share of the training studies from which on a column that alone tells their outcome is the
    outcome by another name, and left out."""
    allow_leaks: bool = False
    """Keep such columns where `columns` names them."""
    sensitivity: float = Field(default=0.9, gt=0, le=1)
    """Share of the positive training patients that the threshold shall call positive."""
    groups: tuple[str, ...] = ()
    """Columns whose values are judged apart, for bias; empty takes all of 2 to 12 values."""
    bands: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """By column of numbers: where its groups begin, as in {age = [40, 60]}; else thirds of the
    training patients."""
    least_patients: int = Field(default=10, ge=1)
    """Patients of a group that is shown by itself; smaller groups are counted together."""
    least_positives: int = Field(default=10, ge=1)
    """Positive studies of a group below which its false negatives are called uncertain."""
    seed: int = Field(default=0, ge=0)
    """Of the folds over patients."""


class TellConfig(Config):
    """How patient columns stand in front of a question."""

    layers: tuple[Layer, ...] = Field(default=("values",), min_length=1)
    """What is told, in this order."""
    style: Literal["numbers", "words"] = "numbers"
    """Numbers as they are, or as low, middle, high by thirds of the training patients."""
    names: dict[str, str] = Field(default_factory=dict)
    """By column: what it is called in prompts, as in {size_mm = "大小"}."""
    values: dict[str, dict[str, str]] = Field(default_factory=dict)
    """By column: what its values are called in prompts, as in {side = {left = "左侧"}}."""
    most: int = Field(default=6, ge=1)
    """Most columns that are told of a question: those that the risk model weighs most, else in
    their order."""
