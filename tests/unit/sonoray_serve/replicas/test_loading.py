"""What the ingress is told of a model."""

import json
from pathlib import Path

from llava_ultra.testing import tiny_artifact
from sonoray.study.prompt import NO_PROTOCOL, PROTOCOL, ProtocolQuestion, ReportProtocol
from sonoray_serve.messages import ModelCard
from sonoray_serve.replicas.loading import ModelSource, describe, load_language_half


def card_of(folder: Path) -> ModelCard:
    source = ModelSource(model=str(folder), digest="", workspace=str(folder), device="cpu")
    return describe(*load_language_half(source))


def test_the_card_has_what_the_model_is_asked_before_a_report(tmp_path):
    tiny_artifact(tmp_path)
    assert card_of(tmp_path).protocol == NO_PROTOCOL
    question = ProtocolQuestion(
        topic="margin", question="?", options=("a", "b"), not_after={"finding": ("no",)}
    )
    protocol = ReportProtocol(questions=(question,), reports=("!",))
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["provenance"][PROTOCOL] = protocol.model_dump(mode="json")
    file.write_text(json.dumps(manifest), encoding="utf-8")
    assert card_of(tmp_path).protocol == protocol
