"""The studies of a tuning's steps: images, questions in turn, and what recognition learns from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_ultra.batch import collate_texts
from llava_ultra.language.report_pairs import collate_pairs, encode_bank
from llava_ultra.pretrain.tuning import TuneStep
from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.pairs import BankTokens, Pairs
from sonoray.study.contract import Study
from sonoray.study.image_reader import ImageReader
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol, conversation
from sonoray.study.sample_order import turns_of_epoch
from sonoray.study.study_index import StudyReader
from sonoray_jobs.training.studies import as_trained, training_index

if TYPE_CHECKING:
    from sonoray_jobs.road.config import RoadConfig


@dataclass(kw_only=True)
class TuneStudies:
    """Reads the studies of a step: images, questions, and what recognition learns from."""

    road: "RoadConfig"
    """Of the training, with the section `tune`."""
    dataset: Path
    """Dataset folder."""
    tokenizer: Any
    """The language model's."""
    bank: ClassBank | None = None
    """The classes that recognition is trained for."""
    protocol: ReportProtocol = NO_PROTOCOL
    """What is asked before a report."""
    seen: list[str] = field(default_factory=list)
    """Ids of all images, in the order in which they were read."""
    times: Counter[str] = field(default_factory=Counter)
    """How often each study was read."""

    def __post_init__(self) -> None:
        road, settings = self.road, self.road.model.recognition
        index = training_index(self.dataset, road.train)
        self.number = min(len(index), road.tune.max_examples)
        self._table = StudyReader(self.dataset, index)
        self._images = ImageReader(self.dataset)
        self._tokens: BankTokens | None = None
        if settings is not None and self.bank is not None:
            self._tokens = encode_bank(self.tokenizer, self.bank, settings, self._length)

    @property
    def _length(self) -> int:
        return self.road.model.language.context_length

    def read(self, numbers: Sequence[int]) -> TuneStep:
        """Read studies by their numbers."""
        train = self.road.train
        studies = [as_trained(study, train) for study in self._table.read(numbers)]
        rows = []
        for place, study in enumerate(studies):
            for turn in self._asked(study):
                question = conversation(study.turns, turn, self.protocol)
                rows.append((place, question, study.turns[turn].answer))
            self.times[study.study_id] += 1
            self.seen += [image.image_id for image in study.images]
        return TuneStep(
            studies=[[self._images.read(image) for image in study.images] for study in studies],
            text=collate_texts(self.tokenizer, rows, max_tokens=self._length),
            pairs=self._pairs(studies),
        )

    def _asked(self, study: Study) -> list[int]:
        tune = self.road.tune
        return turns_of_epoch(
            study.study_id,
            len(study.turns),
            turns_per_epoch=tune.turns,
            seed=tune.seed,
            epoch=self.times[study.study_id],
        )

    def _pairs(self, studies: Sequence[Study]) -> Pairs | None:
        settings = self.road.model.recognition
        if settings is None:
            return None
        bank = self.bank
        return collate_pairs(
            self.tokenizer,
            [max((turn.answer for turn in study.turns), key=len) for study in studies],
            settings,
            context_length=self._length,
            classes=[bank.classes_of(study.labels) if bank else () for study in studies],
            bank=self._tokens,
        )
