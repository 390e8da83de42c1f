"""From answers to opinions: probabilities, suspects, the check of the ways, the questions.

The one module that calls probes and model; what each call is and what becomes of it stands beside.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.cluster.session import ray_session
from sonoray.errors import DataError
from sonoray.metrics import Bootstrap
from sonoray.study.contract import Study
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.opinion.asked_model import AskedModel
from sonoray_jobs.evaluation.opinion.doubts import (
    Doubt,
    candidates_of,
    check_size,
    draw_check,
    prompts_of,
    ways_of,
    within,
)
from sonoray_jobs.evaluation.opinion.keep_or_change import (
    UNASKED,
    UNDECIDED,
    Checked,
    Opinion,
    check_way,
    choose_way,
    decide,
    scores_of,
)
from sonoray_jobs.evaluation.opinion.labels import own_answers
from sonoray_jobs.evaluation.opinion.library import Library
from sonoray_jobs.evaluation.opinion.prompts import Prompt, Way
from sonoray_jobs.evaluation.probing.linear import Asked, asked_of, left_out
from sonoray_jobs.evaluation.probing.pooling import pool_studies
from sonoray_jobs.evaluation.probing.suspects import confident_options, transition_matrix
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.stores import TOWERS

logger = logging.getLogger(__name__)

_ALL = "all"
_NO_OPTION = -30.0
"""Log-likelihood of an answer that a study's question does not offer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinions:
    """What is thought of the answers of a split."""

    opinions: Sequence[Opinion]
    """Of suspect answers, the clearest first."""
    judged_asked: Asked
    """The studies whose answers are doubted."""
    transition: Mapping[str, Mapping[str, float]]
    """By answer, the mean probability of each option."""
    way: Way | None
    checked: Mapping[Way, Checked]
    num_check: int
    num_calls: int

    @property
    def judged(self) -> Sequence[Any]:
        """The same studies."""
        return self.judged_asked.studies

    def asked_json(self) -> dict[str, Any]:
        """How the model was asked, as plain JSON values."""
        return {
            "way": self.way,
            "num_check": self.num_check,
            "ways": {
                way: {"auc": each.auc and asdict(each.auc), "means": dict(each.means)}
                for way, each in self.checked.items()
            },
        }


def have_opinions(
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    given: Mapping[str, str],
    split: str,
    address: str | None,
) -> Opinions:
    """Find suspect answers, and ask the model about them.

    Args:
        workspace: where features are stored.
        made: the training.
        studies: with the question alone.
        given: answers by study id; studies without one take no part.
        split: whose answers are doubted.
        address: Ray cluster.

    Raises:
        DataError: the cap on calls is too low, or an answer has too few patients.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    settings = made.road.opinion
    answered = [study for study in studies if study.study_id in given]
    topic = answered[0].turns[0].topic
    with ray_session(address):
        pooled = pool_studies(workspace, made.road, made.output, made.parts, answered, address)
        whole = asked_of(pooled, topic, TOWERS)
        assert whole is not None  # they have the question
        whole = whole.with_answers([given[study.study_id] for study in answered])
        is_judged = np.array([split in (_ALL, study.split) for study in answered])
        own_answers([s for s, j in zip(answered, is_judged, strict=True) if j], topic)
        model = AskedModel(workspace, made, topic, address)
        options, probabilities = _probabilities(whole, is_judged, model, settings.confidence, made)
        known = ~np.isnan(probabilities).any(axis=1)
        index = np.array([options.index(answer) for answer in whole.truths])
        matrix = transition_matrix(probabilities[known], index[known], settings.spread)
        confident = np.full(len(index), -1)
        confident[known] = confident_options(probabilities[known], index[known])
        has_option = np.array(
            [
                at >= 0 and options[at] in turn.options
                for at, turn in zip(confident.tolist(), whole.turns, strict=True)
            ]
        )
        suspect = has_option & (confident != index)
        transition = {
            answer: dict(zip(options, row.tolist(), strict=True))
            for answer, row in zip(options, matrix, strict=True)
            if np.isfinite(row).all()  # an answer that no judged study has
        }
        library = Library(whole, suspect)
        way, checked, num_check = _check(model, whole, library, is_judged & ~suspect, transition)
        doubts = sorted(
            (
                Doubt(
                    place=place,
                    candidates=candidates_of(
                        options[index[place]],
                        options[confident[place]],
                        whole.turns[place].options,
                        transition[options[index[place]]],
                        settings.candidates,
                    ),
                    suggested=options[confident[place]],
                    margin=float(
                        probabilities[place, confident[place]] - probabilities[place, index[place]]
                    ),
                )
                for place in np.flatnonzero(suspect & is_judged).tolist()
            ),
            key=lambda doubt: (-doubt.margin, answered[doubt.place].study_id),
        )
        opinions = _ask(model, answered, doubts, library, way, checked)
    return Opinions(
        opinions=opinions,
        judged_asked=whole.part(np.flatnonzero(is_judged)),
        transition=transition,
        way=way,
        checked=checked,
        num_check=num_check,
        num_calls=model.num_calls,
    )


def _probabilities(
    whole: Asked, is_judged: npt.NDArray[np.bool_], model: AskedModel, source: str, made: Made
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Options and probabilities (S, O); NaN where nobody was asked."""
    if source == "probe":
        logger.info("fit linear probes to the answers of %d studies", len(whole.studies))
        found = left_out(whole, made.road.opinion.seed)
        if found is None:
            raise DataError(
                "the probes cannot learn: an answer is that of fewer than two patients; leave it "
                "out, or take the model's probabilities with --set opinion.confidence=model"
            )
        return found
    options = sorted(set(whole.truths.tolist()))
    places = np.flatnonzero(is_judged).tolist()
    if len(places) > model.left:
        raise DataError(
            f"opinion.confidence model takes {len(places)} calls, and opinion.calls allows "
            f"{model.left}; raise it, or set opinion.confidence to probe"
        )
    studies = [whole.studies[place].study for place in places]
    replies = model.ask(studies, [[Prompt(way="options")]] * len(studies), "ask all questions")
    found_all = np.full((len(whole.studies), len(options)), np.nan)
    for place, (reply,) in zip(places, replies, strict=True):
        logs = np.array([reply.get(option, _NO_OPTION) for option in options])
        found_all[place] = np.exp(logs - np.logaddexp.reduce(logs))
    return options, found_all


def _check(
    model: AskedModel,
    whole: Asked,
    library: Library,
    may: npt.NDArray[np.bool_],
    transition: Mapping[str, Mapping[str, float]],
) -> tuple[Way | None, dict[Way, Checked], int]:
    """Try the ways on studies that are not suspect."""
    road = model.made.road
    settings = road.opinion
    ways = ways_of(settings)
    places = draw_check(whole, may, check_size(settings, ways, model.left), settings.seed)
    if not len(places):
        return choose_way({}, settings.asking), {}, 0
    truths = whole.truths
    doubts = [
        Doubt(
            place=place,
            candidates=candidates_of(
                truths[place],
                "",
                whole.turns[place].options,
                transition[truths[place]],
                settings.candidates,
            ),
        )
        for place in places.tolist()
    ]
    of_way = {
        way: [prompts_of(way, doubt, library, settings.exemplars) for doubt in doubts]
        for way in ways
    }
    together = [
        [prompt for way in ways for prompt in of_way[way][number]] for number in range(len(doubts))
    ]
    studies = [whole.studies[doubt.place].study for doubt in doubts]
    replies = model.ask(studies, together, "check the ways of asking")
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=settings.seed)
    checked: dict[Way, Checked] = {}
    start = [0] * len(doubts)
    for way in ways:
        scores = []
        for number, doubt in enumerate(doubts):
            end = start[number] + len(of_way[way][number])
            scores.append(scores_of(way, doubt.candidates, replies[number][start[number] : end]))
            start[number] = end
        checked[way] = check_way(
            scores,
            [str(truths[doubt.place]) for doubt in doubts],
            [study.patient_key for study in studies],
            bootstrap,
            centred=settings.centred,
        )
    return choose_way(checked, settings.asking), checked, len(doubts)


def _ask(
    model: AskedModel,
    answered: Sequence[Study],
    doubts: Sequence[Doubt],
    library: Library,
    way: Way | None,
    checked: Mapping[Way, Checked],
) -> list[Opinion]:
    settings = model.made.road.opinion
    prompts = (
        [prompts_of(way, doubt, library, settings.exemplars) for doubt in doubts] if way else []
    )
    num = within(prompts, model.left)
    studies = [answered[doubt.place] for doubt in doubts]
    replies = model.ask(studies[:num], prompts[:num], "ask about suspect answers")
    found = []
    for number, (doubt, study) in enumerate(zip(doubts, studies, strict=True)):
        suggested, confidence = "", 0.0
        verdict = UNDECIDED if way is None else UNASKED
        if way and number < num:
            means = checked[way].means if way in checked else {}
            scores = scores_of(way, doubt.candidates, replies[number])
            suggested, confidence, verdict = decide(
                scores, means, doubt.candidates[0], settings.sure
            )
        found.append(
            Opinion(
                study_id=study.study_id,
                split=study.split,
                given=doubt.candidates[0],
                suspected=doubt.suggested,
                margin=doubt.margin,
                suggested=suggested,
                confidence=confidence,
                verdict=verdict,
            )
        )
    return found
