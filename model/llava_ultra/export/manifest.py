"""The exported model on disk: one folder, one manifest.

```
manifest.json            format, name, model config, site cue, digests of every part, provenance;
                         where not all was trained in float32, the precision; where it was
                         fitted, the calibration of closed questions; of a student, its card
connector.safetensors    fusion and sampler
adapter.safetensors      LoRA weights
recognition.safetensors  modality tokens and heads, of a model that recognises
clip/ sam/               the towers (llava_ultra.towers.clip, llava_ultra.towers.sam); of a mix,
                         further ones beside them, by name (llava_ultra.towers.mix)
language/                tokenizer and base decoder (transformers layout)
student/                 where it was exported with one: the student of closed questions
```

`llava_ultra.export.assistant` loads it, every part by its own loader, and compares each digest with
the manifest: a tower that was silently re-initialised, an adapter of another run or a changed
tokenizer is refused before it answers anyone. A digest is over what was loaded (weights and the
settings that decide what they compute), not over the files' bytes. Only safetensors and JSON are
read, never pickles.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import save_file

from llava_ultra.digests.state_digest import state_digest
from llava_ultra.export.student_part import save_student
from llava_ultra.export.weights import adapter_state, connector_state, recognition_state
from llava_ultra.language.decoder import Language, save_language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision
from llava_ultra.student.student_card import STUDENT
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower

PrecisePart = Literal["model", "towers"]
"""What has a precision of its own: fusion with decoder, and all towers."""

FORMAT = 3
"""Version of the folder's layout."""

NOTICE = (
    "仅供科研使用，不得用于临床诊断。"
    "For research only. Not a medical device; no output may guide the care of a patient."
)
"""What every answer carries; the pages for users begin with the same words."""


def save_artifact(
    folder: Path,
    *,
    name: str,
    model: LlavaUltra,
    language: Language,
    clip: ClipTower,
    sam: SamTower,
    more: Mapping[str, MixTower] | None = None,
    provenance: Mapping[str, Any],
    site_cue: bool = False,
    tower_precision: Precision = "float32",
    calibration: Mapping[str, Any] | None = None,
    student: Path | None = None,
) -> dict[str, Any]:
    """Write the exported model and return its manifest.

    Args:
        folder: empty folder to write into.
        name: the model's registered name.
        model: trained fusion, sampler and adapter.
        language: the base decoder, without adapters, and its tokenizer.
        clip: the CLIP tower that the features came from.
        sam: the SAM tower that the features came from.
        more: further towers of a mix, by name.
        provenance: where it came from: run id, dataset digest, config hash.
        site_cue: whether every question of the training began with the examination site.
        tower_precision: what the towers multiplied in when they computed the training's features.
        calibration: how the likelihoods of options become probabilities, where that was fitted.
        student: what `sonoray distil` wrote of it, where it goes with the model.

    Raises:
        ValueError: the student is another model's.
    """
    precision = {"model": model.precision, "towers": tower_precision}
    connector, adapter = connector_state(model), adapter_state(model)
    save_file(connector, folder / "connector.safetensors")
    save_file(adapter, folder / "adapter.safetensors")
    recognition = recognition_state(model)
    if recognition:
        save_file(recognition, folder / "recognition.safetensors")
    clip.save(folder / "clip")
    sam.save(folder / "sam")
    save_language(language, folder / "language")
    towers = {"clip": clip.fingerprint, "sam": sam.fingerprint}
    for further, tower in (more or {}).items():
        tower.save(folder / further)
        towers[further] = tower.fingerprint
    card, taught = {}, {}
    if student is not None:
        training = str(provenance.get("training", ""))
        told, digest = save_student(
            student, folder, training=training, towers=towers, config=model.config
        )
        card, taught = {STUDENT: told}, {STUDENT: digest}
    manifest = {
        "format": FORMAT,
        "name": name,
        "config": model.config.model_dump(mode="json"),
        "site_cue": site_cue,
        **({"precision": precision} if set(precision.values()) != {"float32"} else {}),
        **({"calibration": dict(calibration)} if calibration else {}),
        "digests": {
            "connector": state_digest(connector),
            "adapter": state_digest(adapter),
            **towers,
            "language": language.digest,
            **({"recognition": state_digest(recognition)} if recognition else {}),
            **taught,
        },
        **card,
        "notice": NOTICE,
        "provenance": dict(provenance),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def precision_of(manifest: Mapping[str, Any], part: PrecisePart) -> Precision:
    """What a part multiplied in when the model was trained; a manifest without it means float32.

    Raises:
        ValueError: this version knows no such precision.
    """
    found: Precision = manifest.get("precision", {}).get(part, "float32")
    if found not in get_args(Precision):
        raise ValueError(
            f"the manifest's precision of its {part} is {found!r}, this version knows "
            f"{', '.join(get_args(Precision))}; use the version that exported it"
        )
    return found


def read_artifact_manifest(folder: Path) -> dict[str, Any]:
    """Read an exported model's manifest.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no exported model (no manifest.json); export one")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"model {str(folder)!r} has format {manifest.get('format')}, this version reads "
            f"{FORMAT}; export it again"
        )
    return manifest
