"""DeepSpeed's engine around the model, at each stage of ZeRO, and what its parameters hold.

Fusion, sampler and decoder are in the engine; the towers are not even loaded. Every worker has all
of the optimiser's state at stage 0, a part of it from stage 1 on, of the gradients from stage 2 on,
and of all weights at stage 3. With `train.offload` the optimiser's state lies in the host's memory,
or at stage 3 the weights as well. Losses and steps are the same, up to rounding.

At stage 3 a parameter is empty on every worker, but while a layer that has it is called: then all
workers gather it together. So all have to call the same layers as often as each other. Texts are
read as padded rows in one pass (`LlavaUltra.reads_rows`), parts of a step are refused
(`llava_ultra.steps.accumulate`), and who wants to know a weight asks for the whole of it here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.groups import decay_groups, whole_shape
from sonoray_jobs.road.train_config import TrainConfig

_OF_ENGINE = ("pre_bwd_fn", "post_bwd_fn", "applied_pre_backward_ref_cnt", "ds_grads_remaining")
"""What stage 3 leaves on modules: it would lead the next engine's hooks to the one before."""


def engine_config(settings: TrainConfig, *, pin_memory: bool = False) -> dict[str, Any]:
    """What DeepSpeed is told.

    Args:
        settings: of the training.
        pin_memory: whether what is offloaded lies in page-locked memory.
    """
    host = {"device": "cpu", "pin_memory": pin_memory}
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "stage3_param_persistence_threshold": settings.zero_whole_below,
    }
    if settings.offload != "none":
        zero["offload_optimizer"] = host
    if settings.offload == "all":
        zero["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": 1,  # of no effect: steps count their answers
        "gradient_clipping": settings.clip_norm,
        "zero_optimization": zero,
        # torch's own AdamW: DeepSpeed's would compile a kernel per machine
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def build_engine(model: LlavaUltra, settings: TrainConfig, learning_rate: float) -> Any:  # noqa: ANN401 - DeepSpeed's
    """Wrap the model; collective. The optimiser is `engine.basic_optimizer`, AdamW."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    config = engine_config(settings, pin_memory=accelerator.device_name() != "cpu")
    groups = decay_groups(model, weight_decay=settings.weight_decay)
    if settings.zero_stage == 3:
        model.reads_rows = True
        if not _is_spread(model):  # from the host, so that no device ever holds all of it
            deepspeed.zero.Init(
                module=model,
                config_dict_or_path=config,
                remote_device="cpu" if settings.offload == "all" else None,
                pin_memory=accelerator.device_name() != "cpu",
            )
            for buffer in model.buffers():
                buffer.data = buffer.data.to(accelerator.current_device_name())
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(groups, lr=learning_rate), config=config
    )
    return engine


def take_step(engine: Any) -> bool:  # noqa: ANN401 - DeepSpeed's
    """Step; False on all workers where a gradient was not finite, so that nothing changed."""
    if engine.zero_optimization_stage() == 0 and not _is_finite(engine.module):
        engine.zero_grad()  # without ZeRO, nobody else looks
        return False
    engine.step()
    return bool(engine.was_step_applied())


def close_engine(engine: Any) -> None:  # noqa: ANN401 - DeepSpeed's
    """Let go of the model, so that another engine can take it."""
    engine.destroy()
    for module in engine.module.modules():
        for name in _OF_ENGINE:
            module.__dict__.pop(name, None)


@contextmanager
def whole_parameters(module: nn.Module) -> Iterator[None]:
    """Inside the block every worker can read a module's parameters; collective."""
    parameters = list(module.parameters())
    if not _is_spread(module):
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(parameters):
        yield


def whole_state(engine: Any, parameter: nn.Parameter, key: str = "") -> Tensor:  # noqa: ANN401
    """All of what the optimiser holds of a parameter that learns, on the CPU; collective.

    Args:
        engine: has both.
        parameter: of the engine's model.
        key: of the optimiser's state; by default the float32 weight itself.

    Raises:
        RuntimeError: a part of it is missing.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        states = engine.basic_optimizer.state
        return checked(parameter, states[parameter][key] if key else parameter)
    if key:
        return checked(parameter, safe_get_full_optimizer_state(parameter, key))
    return checked(parameter, safe_get_full_fp32_param(parameter))


def give_state(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:  # noqa: ANN401
    """Give this worker its part of what the optimiser holds of a parameter."""
    from deepspeed.utils import (
        safe_get_local_optimizer_state,
        safe_set_full_optimizer_state,
        safe_set_local_optimizer_state,
    )

    stage = engine.zero_optimization_stage()
    if stage == 0:
        engine.basic_optimizer.state[parameter][key].copy_(value)
    elif stage < 3:
        safe_set_full_optimizer_state(parameter, value, key)
    else:  # the parts of all are equally long, and the last ones go beyond the end
        size = safe_get_local_optimizer_state(parameter, key).numel()
        begin = torch.distributed.get_rank() * size
        own = value.flatten()[begin : begin + size]
        part = nn.functional.pad(own, (0, size - len(own)))
        safe_set_local_optimizer_state(parameter, part, key)


def optimizer_places(engine: Any) -> list[nn.Parameter]:  # noqa: ANN401 - DeepSpeed's
    """The tensors that AdamW steps: parameters, or this worker's flat parts of many."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        flat: list[nn.Parameter] = optimizer.fp32_partitioned_groups_flat
        return flat
    return [each for group in engine.basic_optimizer.param_groups for each in group["params"]]


def link_moments(engine: Any) -> None:  # noqa: ANN401 - DeepSpeed's
    """Tell parameters where their parts of the moments are, which stages 1 and 2 ask of them."""
    if engine.zero_optimization_stage() not in {1, 2}:
        return
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    optimizer = engine.basic_optimizer
    whole = decay_groups(engine.module, weight_decay=0.0)  # as the optimiser was given them
    for group, of_model in zip(optimizer.param_groups, whole, strict=True):
        (flat,) = group["params"]
        lazy_init_hp_params_optimizer_state(of_model["params"], flat, optimizer.state)


def checked(parameter: nn.Parameter, found: Tensor | None) -> Tensor:
    """A copy on the CPU of what was gathered of a parameter.

    Raises:
        RuntimeError: it is not all of it; an adapter that is saved empty would be lost.
    """
    wanted = whole_shape(parameter)
    if found is None or found.numel() != wanted.numel():
        shape = None if found is None else tuple(found.shape)
        raise RuntimeError(f"gathered {shape} of a parameter of shape {tuple(wanted)}")
    return found.detach().view(wanted).to("cpu", copy=True)


def _is_spread(model: nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def _is_finite(model: nn.Module) -> bool:
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    return all(bool(gradient.isfinite().all()) for gradient in gradients)
