"""The trained weights of the connector and of the adapter, by name: out of a model and into one.

What does not fit is refused by name. `load_state_dict` would leave a missing weight as it was made,
at random, and say nothing.
"""

from collections.abc import Mapping
from pathlib import Path

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from llava_ultra.digests.state_digest import check_digest, state_digest
from llava_ultra.model import CONNECTOR_PARTS, LlavaUltra


def connector_state(model: LlavaUltra) -> dict[str, Tensor]:
    """The fusion's and the sampler's weights, by name."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in CONNECTOR_PARTS
    }


def adapter_state(model: LlavaUltra) -> dict[str, Tensor]:
    """The LoRA weights, by name.

    Raises:
        ValueError: there are none, or they are empty shards of a partitioned model.
    """
    state = get_peft_model_state_dict(model.language_model)
    if not state or any(tensor.numel() == 0 for tensor in state.values()):
        raise ValueError(
            "the adapter has no weights to export; gather a partitioned model (ZeRO-3) first"
        )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def recognition_state(model: LlavaUltra) -> dict[str, Tensor]:
    """The weights of modality tokens and heads, by name; none where it does not recognise."""
    if model.recognition is None:
        return {}
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.recognition.state_dict().items()
    }


def load_recognition(model: LlavaUltra, state: Mapping[str, Tensor]) -> None:
    """Load modality tokens and heads; a missing or foreign name is an error.

    Raises:
        ValueError: the names do not fit this model's configuration.
    """
    expected = set(recognition_state(model))
    if expected != set(state) or model.recognition is None:
        odd = sorted(expected ^ set(state))[:3]
        raise ValueError(f"recognition weights do not fit this model's config; differing: {odd}")
    model.recognition.load_state_dict(dict(state))


def load_connector(model: LlavaUltra, state: Mapping[str, Tensor]) -> None:
    """Load fusion and sampler weights; a missing or foreign name is an error.

    Raises:
        ValueError: the names do not fit this model's configuration.
    """
    expected = set(connector_state(model))
    if expected != set(state):
        odd = sorted(expected ^ set(state))[:3]
        raise ValueError(f"connector weights do not fit this model's config; differing: {odd}")
    model.load_state_dict(dict(state), strict=False)


def load_adapter(model: LlavaUltra, state: Mapping[str, Tensor]) -> None:
    """Load LoRA weights; a missing or foreign name is an error.

    Raises:
        ValueError: the names do not fit this model's configuration.
    """
    expected = set(get_peft_model_state_dict(model.language_model))
    if expected != set(state):
        odd = sorted(expected ^ set(state))[:3]
        raise ValueError(f"adapter weights do not fit this model's LoRA; differing: {odd}")
    set_peft_model_state_dict(model.language_model, dict(state))


def read_weights(path: Path, expected: str) -> dict[str, Tensor]:
    """Read a safetensors file and check the digest of what it holds.

    Raises:
        ValueError: it is missing, or its weights have another digest than `expected`.
    """
    if not path.is_file():
        raise ValueError(f"exported model lacks {path.name} in {str(path.parent)!r}; export again")
    state: dict[str, Tensor] = load_file(path)
    check_digest(str(path), found=state_digest(state), expected=expected)
    return state
