"""Tiny real models for tests: every part at its smallest, random weights from a seed.

Shipped with the package so that the tests of other packages (the server's, the jobs') run on a real
model too instead of a mock.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from llava_ultra.batch import TextBatch, VisualBatch, collate_texts
from llava_ultra.config import (
    AdaptiveSampling,
    ClipConfig,
    ConcatFusion,
    FusionConfig,
    LanguageConfig,
    LoraSettings,
    ModelConfig,
    SamConfig,
    SamplingConfig,
)
from llava_ultra.export.manifest import save_artifact
from llava_ultra.language.decoder import (
    Language,
    build_language_model,
    load_language,
    save_language,
)
from llava_ultra.language.lora import add_lora
from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision
from llava_ultra.student.network import Student, StudentShape
from llava_ultra.student.student_card import StudentCard, read_card
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.mix.mix_config import FurtherTower, VisionConfig
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower

TRAINING = "tests-0123456789ab"
"""Name of the training that tiny students say they learned from."""

TEXTS = (
    "病灶是良性还是恶性?",
    "良性",
    "恶性",
    "请描述超声所见。",
    "左侧甲状腺见一低回声结节, 大小约12mm, 边界清晰。",
    "检查的是哪个器官?",
    "甲状腺",
    "乳腺",
    "肝脏",
)
"""What the tiny tokenizer is trained on."""


def tiny_config(sampling: SamplingConfig | None = None) -> ModelConfig:
    """The smallest configuration in which every part does its real work: P = 4 tokens, D = 32."""
    return ModelConfig(
        clip=ClipConfig(
            image_size=32,
            patch_size=16,
            width=32,
            layers=2,
            embed_dim=16,
            text_width=32,
            text_layers=1,
            context_length=32,
        ),
        sam=SamConfig(image_size=64, patch_size=16, width=32, layers=1, heads=2, out_channels=8),
        sampling=sampling or AdaptiveSampling(),
        language=LanguageConfig(
            vocab_size=400,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            intermediate_size=64,
            context_length=256,
        ),
        lora=LoraSettings(rank=4, alpha=8),
        projector_hidden=32,
    )


def tiny_mix(fusion: FusionConfig | None = None) -> ModelConfig:
    """The same with two further towers: `fine`, a SAM, and `vit`, a ViT of transformers.

    `vit` is stored on a grid of one cell more a side than CLIP's where `append` reads it.
    """
    fusion = fusion or ConcatFusion()
    sam = SamConfig(weights="fine.pth", image_size=64, width=16, layers=1, heads=2, out_channels=4)
    vit = VisionConfig(weights="vit", width=16, layers=2, image_size=32, patch_size=8)
    values = tiny_config().model_dump(exclude={"fusion"})
    values["clip"]["feature_layers"] = (-2, -1)
    return ModelConfig(
        **values,
        fusion=fusion,
        towers=(
            FurtherTower(name="fine", sam=sam),
            FurtherTower(
                name="vit", transformers=vit, target_grid=3 if fusion.type == "append" else 0
            ),
        ),
    )


TINY_VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
"""The architecture of `vit` in `tiny_mix`."""


def tiny_further(config: ModelConfig, seed: int = 0) -> dict[str, MixTower]:
    """Random further towers for a configuration of `tiny_mix`, by name."""
    torch.manual_seed(seed)
    return {
        tower.name: MixTower(
            tower,
            target_grid=config.grid_of(tower),
            architecture=TINY_VIT if tower.transformers else None,
        ).eval()
        for tower in config.towers
    }


def tiny_language(config: ModelConfig, seed: int = 0) -> Language:
    """A tokenizer trained on `TEXTS` and a random decoder."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(TEXTS, config.language.vocab_size)
    model = build_language_model(config.language, tokenizer)
    model.eval()  # type: ignore[no-untyped-call]
    return Language(tokenizer=tokenizer, model=model)


def tiny_towers(
    config: ModelConfig, language: Language, seed: int = 0
) -> tuple[ClipTower, SamTower]:
    """Random towers for the configuration."""
    torch.manual_seed(seed)
    clip = ClipTower(
        config.clip,
        vocab_size=len(language.tokenizer),
        end_id=language.tokenizer.eos_token_id,
        pad_id=language.tokenizer.pad_token_id,
    )
    sam = SamTower(config.sam, target_grid=config.clip.grid)
    clip.eval()
    sam.eval()
    return clip, sam


def tiny_model(config: ModelConfig, language: Language, seed: int = 0) -> LlavaUltra:
    """Fusion, sampler and LoRA-adapted decoder; the adapters are random, not zero."""
    torch.manual_seed(seed)
    model = LlavaUltra(config, add_lora(language.model, config.lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            elif "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    model.eval()
    return model


def enliven(decoder: nn.Module) -> None:
    """Scale a random decoder's matrices, so that each token of a prompt bears on the answer.

    As initialised it repeats the prompt's last token, whatever stands before.
    """
    head: Tensor = decoder.get_output_embeddings().weight  # type: ignore[operator]
    for weight in decoder.parameters():
        if weight.dim() == 2 and weight is not head:
            weight.data.mul_(8)


def tiny_batch(
    config: ModelConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0
) -> tuple[VisualBatch, TextBatch]:
    """Three studies of up to three images with random features, and a question of each."""
    generator = torch.Generator().manual_seed(seed)
    clip, sam, *more = (
        torch.randn(3, 3, *shape, generator=generator) for shape in config.tower_shapes.values()
    )
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    rows = [(0, TEXTS[0], TEXTS[1]), (1, TEXTS[3], TEXTS[4]), (2, TEXTS[5], TEXTS[6])]
    text = collate_texts(tokenizer, rows, max_tokens=config.language.context_length)
    further = dict(zip([tower.name for tower in config.towers], more, strict=True))
    return VisualBatch(clip=clip, sam=sam, image_mask=mask, more=further), text


def tiny_artifact(
    folder: Path,
    *,
    lively: bool = False,
    name: str = "llava-ultra",
    sampling: SamplingConfig | None = None,
    config: ModelConfig | None = None,
    tower_precision: Precision = "float32",
    seed: int = 0,
    with_student: bool = False,
) -> dict[str, Any]:
    """Write a complete exported model with random weights; returns its manifest.

    Args: `lively` does to its decoder as `enliven`; `seed` is of fusion, sampler and adapter, so
    that models of unlike seeds share decoder and towers; `with_student` adds one with random
    weights beside the folder, and in it.
    """
    config = config or tiny_config(sampling)
    base = tiny_language(config)
    if lively:
        enliven(base.model)
    save_language(base, folder / "language")
    clip, sam = tiny_towers(config, base)
    further = tiny_further(config)
    student = None
    if with_student:
        student = folder.parent / f"{folder.name}-student"
        prints = {each: tower.fingerprint for each, tower in further.items()}
        prints |= {"clip": clip.fingerprint, "sam": sam.fingerprint}
        tiny_student(student, config, prints)
    return save_artifact(
        folder,
        name=name,
        model=tiny_model(config, base, seed),
        language=load_language(folder / "language"),
        clip=clip,
        sam=sam,
        more=further,
        provenance={
            "source": "random weights for tests",
            **({"training": TRAINING} if with_student else {}),
        },
        tower_precision=tower_precision,
        student=student,
    )


def tiny_student(folder: Path, config: ModelConfig, towers: Mapping[str, str]) -> StudentCard:
    """Write a student with random weights as `sonoray distil` does; returns its card.

    It is asked two questions, and its router gives it what it is sure of to 0.6 within a budget of
    0.01, and everything within one of 0.1.
    """
    topics = {"pathology": (TEXTS[1], TEXTS[2]), "organ": (TEXTS[6], TEXTS[7], TEXTS[8])}
    card = {
        "teacher": TRAINING,
        "towers": dict(towers),
        "questions": {"pathology": [TEXTS[0]], "organ": [TEXTS[5]]},
        "calibration": {"temperature": 2.0, "abstain_below": 0.55, "error_rate": 0.1},
        "routes": [
            {"least_confidence": 0.6, "lost": 0.01, "share": 0.5},
            {"least_confidence": 0.0, "lost": 0.1, "share": 1.0},
        ],
    }
    features = 2 * sum(channels for _, channels in config.tower_shapes.values())
    torch.manual_seed(0)
    student = Student(StudentShape(features=features, hidden=8, topics=topics)).eval()
    student.head.data.mul_(8)  # else it is sure of nothing
    folder.mkdir()
    student.save(folder, card=card)
    return read_card(folder)


def tiny_image(seed: int = 0, height: int = 40, width: int = 56) -> np.ndarray:
    """A random grey image, uint8 (H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def tiny_gguf(path: Path, language: Language, *, kind: str = "F32") -> None:
    """Write a language side as a GGUF file, as llama.cpp's converter does; needs package `gguf`.

    Args:
        path: the file.
        language: a small Llama of ours.
        kind: how its matrices are quantised, a name of `gguf.GGMLQuantizationType`.
    """
    import gguf

    tokenizer, config = language.tokenizer, language.model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in ids])
    writer.add_token_types([3 if token in special else 1 for token, _ in ids])
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in language.model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp rotates pairs elsewhere
            heads = config.num_attention_heads
            halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        chosen = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        quantised = gguf.quants.quantize(values, chosen)
        own = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(own, quantised, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
