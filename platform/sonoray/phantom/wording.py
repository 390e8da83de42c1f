"""What a language has to offer for the phantom's texts.

The vocabulary is small and every sentence has at most two wordings, so that a tiny language model
learns it in a minute. A language is a `Wording`: its tables and its four kinds of sentence
(`sonoray.phantom.chinese`, `sonoray.phantom.english`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sonoray.phantom.anatomy import Organ
from sonoray.phantom.lesion import Echogenicity, Kind, Lesion, Margin, Side, SizeClass


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """One language; `wording` in its functions is 0 or 1."""

    organs: Mapping[Organ, str]
    sides: Mapping[Side, str]
    echoes: Mapping[Echogenicity, str]
    margins: Mapping[Margin, str]
    kinds: Mapping[Kind, str]
    sizes: Mapping[SizeClass, str]
    """Answers to how large the lesion is."""
    advice: Mapping[Kind, str]
    presence: Mapping[bool, str]
    """Answers to whether something is there."""
    pathology: Mapping[bool, str]
    """Whether malignant."""
    place_name: Callable[[Organ, Side], str]
    """Names the scanned half of an organ."""
    finding_sentence: Callable[[Organ, Lesion, float, int], str]
    """Describes a lesion of so many millimetres, by wording."""
    normal_sentence: Callable[[str, int], str]
    """Describes a half or a whole organ without a lesion, by wording."""
    impression: Callable[[Organ, Lesion | None], str]
    """Ends a report."""
    between_sentences: str
    questions: Mapping[str, tuple[str, str]]
    """Two wordings by topic."""

    def report_text(self, organ: Organ, lesion: Lesion | None, wording: int) -> str:
        """Write the report of a study: what was seen, and the impression."""
        if lesion is None:
            seen = self.normal_sentence(self.organs[organ], wording)
        else:
            seen = self.finding_sentence(organ, lesion, lesion.size_mm, wording)
        return seen + self.between_sentences + self.impression(organ, lesion)
