"""Forms of what is told of a patient, in Chinese and English."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Forms of one language."""

    patient: str
    knowledge: str
    risk: str
    between: str
    low: str
    middle: str
    high: str


WORDS: Mapping[Literal["zh", "en"], Words] = {
    "zh": Words(
        patient="患者资料：{told}。",
        knowledge="{positive}多见于：{told}。",
        risk="风险模型：{positive}的概率{percent}%。",
        between="，",
        low="低",
        middle="中",
        high="高",
    ),
    "en": Words(
        patient="Patient: {told}. ",
        knowledge="{positive} is commoner with: {told}. ",
        risk="Risk model: {positive} {percent}%. ",
        between=", ",
        low="low",
        middle="middle",
        high="high",
    ),
}
