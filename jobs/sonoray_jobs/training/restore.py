"""A finished training, put together again: the model that evaluation answers with and export ships.

The checkpoint holds only what was trained; the language model comes from its bootstrap stage, and
the digests that the checkpoint recorded of the frozen parts are checked against it.
"""

from typing import TYPE_CHECKING

from llava_ultra.language.decoder import Language, load_language
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import AnswerPrecision, answer_precision
from sonoray_jobs.training.checkpoint import check_frozen, load_weights

if TYPE_CHECKING:
    from sonoray_jobs.outputs.find import TrainedParts


def load_trained(
    parts: "TrainedParts", precision: AnswerPrecision = "trained"
) -> tuple[LlavaUltra, Language]:
    """Load a trained model and the language side (whose decoder is inside the model).

    Args:
        parts: where they lie.
        precision: what the model multiplies in.

    Raises:
        CheckpointError: the frozen parts are not those that it was trained over.
        ValueError: a part is missing or damaged.
    """
    language = load_language(parts.language)
    found = {"language": language.digest, **parts.fingerprints}
    check_frozen(parts.checkpoint, found)
    model = LlavaUltra(
        parts.road.model,
        add_lora(language.model, parts.road.model.lora),
        precision=answer_precision(precision, parts.road.train.precision),
    )
    load_weights(model, parts.checkpoint)
    model.eval()
    return model, language
