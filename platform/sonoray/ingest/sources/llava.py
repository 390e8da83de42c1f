"""Conversations about images in the format of LLaVA: a JSON list, or JSON lines.

An item is one study. Two spellings of the format are read, the one of LLaVA and the one of chat
templates, in which many Chinese sets come:

```
{"id": "a", "image": "a.png", "conversations": [{"from": "human", "value": "<image>..."}, ...]}
{"id": "a", "images": ["a.png"], "messages": [{"role": "user", "content": "<image>..."}, ...]}
```

`image` and `images` hold one path or a list, relative to the folder of images (that of the file
unless another is given); an item without them is text alone. Turns alternate between the person and
the assistant; a system prompt before them is left out, since every model here has its own. The
marker `<image>` is removed: images stand before the text here. Where markers occur there must be
one per image.

The format names no patient. Where the items have a key `patient` it counts; else each item is a
patient of its own, and only images that are equal or nearly so keep items in one split. Two views
of one patient are not: add the key, or use a table.

An item's `description`, where its one image has one, becomes the image's caption. Answers of such
sets are often written by a model and unchecked; nothing here can tell.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field

from sonoray.files.spreadsheet import describe_damage, find_damage
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.ingest.sources.inputs import (
    Item,
    digest_files,
    find_files,
    load_image,
    read_items,
    unusable,
)
from sonoray.study.contract import Turn
from sonoray.study.identifiers import Identifiers
from sonoray.study.raw import RawStudy

_MARKER = "<image>"
_SPEAKERS = {"human": "person", "user": "person", "gpt": "assistant", "assistant": "assistant"}
TOPIC = "conversation"
"""Topic of every turn: the format names none."""


class _Message(Item):
    role: Literal["system", "human", "user", "gpt", "assistant"] = Field(
        validation_alias=AliasChoices("from", "role")
    )
    text: str = Field(validation_alias=AliasChoices("value", "content"))


class _Conversation(Item):
    """One item of the file."""

    id: str | int
    images: str | list[str] = Field(default=[], validation_alias=AliasChoices("image", "images"))
    messages: list[_Message] = Field(validation_alias=AliasChoices("conversations", "messages"))
    patient: str | int | None = None
    description: str = ""

    @property
    def names(self) -> list[str]:
        """The images, always as a list."""
        return [self.images] if isinstance(self.images, str) else self.images


class LlavaSource:
    """Reads a file of conversations."""

    public = False

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        name: str = "llava",
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Read the conversations; no image is opened.

        Args:
            path: `.json` with a list of items, or `.jsonl` with one item per line.
            images: folder that the images' paths are relative to; by default that of `path`.
            name: the dataset's name.
            limits: what is accepted as an image.

        Raises:
            DataError: the file cannot be read or is no list of items.
        """
        self.name = name
        self._path = path
        self._limits = limits
        self._images = path.parent if images is None else images
        self._entries = read_items(path, _Conversation)
        items = [entry.value for entry in self._entries if entry.value]
        self._damage = {
            "id": find_damage(str(item.id) for item in items),
            "patient": find_damage(str(item.patient or "") for item in items),
        }

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._entries)

    def config(self) -> dict[str, Any]:
        """Nothing shapes the output but the files."""
        return {}

    def input_digest(self) -> str:
        """Sha256 (hex) over the file and the images that it names."""
        names = [name for entry in self._entries if entry.value for name in entry.value.names]
        images = find_files(self._images, names)
        table = {self._path.name: self._path}
        return digest_files(table, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per item, in order."""
        for entry in self._entries:
            if entry.value is None:
                where = f"item{entry.ref.removeprefix(self._path.name)}"
                yield unusable(entry.ref, entry.problem.replace(entry.ref, where))
            else:
                yield self._study(entry.ref, entry.value)

    def _study(self, ref: str, item: _Conversation) -> RawStudy:
        problem = self._find_damage(item) or _find_problem(item)
        captions = (
            {"caption": item.description} if len(item.names) == 1 and item.description else {}
        )
        return RawStudy(
            ref=f"{self.name}/{item.id}",
            # private identifiers mean the same patient in every dataset; a made-up one must not
            patient_ref=f"{self.name}/{item.id}" if item.patient is None else str(item.patient),
            images=tuple(load_image(self._images, name, labels=captions) for name in item.names),
            turns=() if problem else _turns(item),
            # no name of the file: it may be a patient's
            provenance=f"{self.name}, item{ref.removeprefix(self._path.name)}",
            identifiers=Identifiers.of(str(item.id)),
            problem=problem,
        )

    def _find_damage(self, item: _Conversation) -> str:
        """Why an identifier of the item is none any more; empty where all are."""
        for key, damage in self._damage.items():
            reason = damage.get(str(getattr(item, key)))
            if reason:
                return describe_damage(reason, f"an item's {key}")
        return ""


def _find_problem(item: _Conversation) -> str:
    spoken = _without_system(item)
    roles = [_SPEAKERS.get(each.role) for each in spoken]
    if not roles or roles != ["person", "assistant"] * (len(roles) // 2):
        return (
            f"role_order: the turns are by {', '.join(each.role for each in item.messages)}; "
            "they must alternate, person first and assistant last"
        )
    markers = sum(each.text.count(_MARKER) for each in spoken)
    if markers and markers != len(item.names):
        return (
            f"image_markers: {markers} {_MARKER} markers for {len(item.names)} images; correct it"
        )
    return ""


def _turns(item: _Conversation) -> tuple[Turn, ...]:
    spoken = _without_system(item)
    return tuple(
        Turn(
            question=person.text.replace(_MARKER, "").strip(),
            answer=assistant.text.strip(),
            topic=TOPIC,
        )
        for person, assistant in zip(spoken[::2], spoken[1::2], strict=True)
    )


def _without_system(item: _Conversation) -> list[_Message]:
    messages = item.messages
    return messages[1:] if messages and messages[0].role == "system" else messages
