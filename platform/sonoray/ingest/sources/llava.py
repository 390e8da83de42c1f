"""Conversations about images in the format of LLaVA and its kin: a JSON list, or JSON lines.

Read are the spellings in which sets for training vision-language models come:

```
{"id": "a", "image": "a.png", "conversations": [{"from": "human", "value": "<image>..."}, ...]}
{"images": ["a.png"], "messages": [{"role": "user", "content": "<image>..."}, ...]}
{"messages": [{"role": "user", "content": [{"type": "text", "text": "..."},
    {"type": "image_url", "image_url": {"url": "a.png"}}]}, ...]}
{"instruction": "...", "output": "...", "history": [["...", "..."]], "images": [...]}
{"query": "...", "response": "...", "history": [["...", "..."]], "images": [...]}
```

That is LLaVA, LLaMA-Factory and ms-swift, and the messages of OpenAI. Images are one path or a
list, relative to the folder of images (that of the file unless another is given), or `data:` URLs;
an item without them is text alone. Turns alternate between the person and the assistant; a system
prompt before them is left out, since every model here has its own. The marker `<image>` is removed:
images stand before the text here. Where markers occur there must be one per image.

An item is one study, and so are items that share `id`, images and patient: several conversations
about one image. Their turns follow one another; the study's provenance names the items. An item
without an `id` is called by its position.

A question may need the one before it (`第二个多大？`). Words tell it (`_FOLLOWS`): its topic is
`follow_up` instead of `conversation`, and its study has the label `conversation` = `ordered`
instead of `independent`. Turns keep their order. Training and evaluation ask every question without
the turns before it, so score the topics apart, or leave the studies out (`train.only`).

The format names no patient. Where the items have a key `patient` it counts; else items that show
one file are of one patient, each other item is a patient of its own, and only images that are equal
or nearly so keep these in one split. Two views of one patient are not: add the key, or use a table.

An item's `description`, where its one image has one, becomes the image's caption. Answers of such
sets are often written by a model and unchecked; nothing here can tell.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from sonoray.files.spreadsheet import describe_damage, find_damage
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.ingest.sources.inputs import (
    Entry,
    Item,
    digest_files,
    find_files,
    load_image,
    read_items,
    unusable,
)
from sonoray.study.contract import Turn
from sonoray.study.identifiers import Identifiers
from sonoray.study.prompt import FOLLOW_UP
from sonoray.study.raw import RawImage, RawStudy

_MARKER = "<image>"
_SPEAKERS = {"human": "person", "user": "person", "gpt": "assistant", "assistant": "assistant"}
TOPIC = "conversation"
"""Topic of every turn that stands for itself: the format names none."""

_FOLLOWS = re.compile(
    r"""
    ^\W*(?:那|它|他|她|其|另|还有|为什么|为何|怎么|多大|在哪|前者|后者|上述|以上)
    | ^\W*(?:这|该|此)(?!\s*[张幅例次份组]|.{0,3}(?:图|影像|照片|超声|检查|患者|病人))
    | 第\s*[一二三四五六七八九十两\d]+\s*[个处枚]
    | 它们?|上述|前者|后者|刚才|前面(?:提|说|的)|呢\W*$
    | ^\W*(?:and|so|then|but|why|(?:what|how)\ about)\b
    | \b(?:it|its|they|them|their|those|that\ one|this\ one|former|latter|previous|mentioned)\b
    | \bthe\ (?:first|second|third|other|same)\ one\b
    | \bthese\b(?!\ (?:\w+\ )?(?:images?|pictures?|scans?|views?|frames?)\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Words that point to what was said before, and not to the picture."""
_MIN_CHARACTERS, _MIN_WORDS = 6, 3
"""Below this a question leaves out what it asks about: `在哪里？`, `How big?`."""

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class _Message(Item):
    role: Literal["system", "human", "user", "gpt", "assistant"] = Field(
        validation_alias=AliasChoices("from", "role")
    )
    text: str = Field(validation_alias=AliasChoices("value", "content"))


class _Conversation(Item):
    """One item of the file."""

    id: str | int | None = None
    names: list[str] = Field(default=[], validation_alias="images")
    """The images: paths, or `data:` URLs."""
    messages: list[_Message]
    patient: str | int | None = None
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read_spelling(cls, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        return _to_messages(value) if isinstance(value, dict) else value

    @field_validator("names")
    @classmethod
    def _find_names(cls, names: list[str]) -> list[str]:
        if not all(names):
            raise ValueError("an image has no name")
        return names


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
            "id": find_damage(_to_text(item.id) for item in items),
            "patient": find_damage(_to_text(item.patient) for item in items),
        }
        self._studies = _join(self._entries, self._find_problem)
        self._owners: dict[str, str] = {}
        """By image: what the first item that shows it is called."""
        for entry in self._entries:
            for name_of_image in entry.value.names if entry.value else ():
                self._owners.setdefault(name_of_image, self._ref(entry))

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._studies)

    def config(self) -> dict[str, Any]:
        """Nothing shapes the output but the files."""
        return {}

    def input_digest(self) -> str:
        """Sha256 (hex) over the file and the images that it names."""
        names = [name for entry in self._entries if entry.value for name in entry.value.names]
        images = find_files(self._images, [name for name in names if not _is_url(name)])
        table = {self._path.name: self._path}
        return digest_files(table, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per item, or per items that belong together, in order."""
        seen: set[str] = set()
        for entries, group in self._studies:
            first = entries[0]
            if first.value is None:
                problem = first.problem.replace(first.ref, f"item{self._place(first)}")
                yield unusable(first.ref, problem)
                continue
            ref = self._ref(first)
            if ref in seen:
                ref = f"{ref}{self._place(first)}"  # one id of several studies
            seen.add(ref)
            study = self._study(ref, entries, first.value)
            if entries is not group and len(group) > 1:
                problem = f"repeated_item: item{self._place(first)} is in a study of its id already"
                study = replace(study, turns=(), problem=problem)
            yield study

    def _place(self, entry: Entry[_Conversation]) -> str:
        """Where an item stands, without the name of the file, which may be a patient's."""
        return entry.ref.removeprefix(self._path.name)

    def _ref(self, entry: Entry[_Conversation]) -> str:
        known = entry.value.id if entry.value else None
        return f"{self.name}/{self._place(entry) if known is None else known}"

    def _study(
        self, ref: str, entries: Sequence[Entry[_Conversation]], item: _Conversation
    ) -> RawStudy:
        problem = self._find_problem(item)
        items = [entry.value for entry in entries if entry.value]
        turns = () if problem else tuple(turn for each in items for turn in _turns(each))
        has_order = any(turn.topic == FOLLOW_UP for turn in turns)
        described = next((each.description for each in items if each.description), "")
        captions = {"caption": described} if len(item.names) == 1 and described else {}
        owner = next((self._owners[name] for name in item.names), self._ref(entries[0]))
        return RawStudy(
            ref=ref,
            # private identifiers mean the same patient in every dataset; a made-up one must not
            patient_ref=owner if item.patient is None else str(item.patient),
            images=tuple(
                self._image(f"{ref}#{number}", name, captions)
                for number, name in enumerate(item.names)
            ),
            turns=turns,
            labels={"conversation": "ordered" if has_order else "independent"} if turns else {},
            provenance=f"{self.name}, item{', '.join(map(self._place, entries))}",
            identifiers=Identifiers() if item.id is None else Identifiers.of(str(item.id)),
            problem=problem,
        )

    def _find_problem(self, item: _Conversation) -> str:
        """Why an item cannot be used, its identifiers first; empty where it can."""
        for key, damage in self._damage.items():
            reason = damage.get(_to_text(getattr(item, key)))
            if reason:
                return describe_damage(reason, f"an item's {key}")
        return _find_problem(item)

    def _image(self, ref: str, name: str, labels: Mapping[str, str]) -> RawImage:
        """An image that lies in the folder, or in the item itself."""
        if not _is_url(name):
            return load_image(self._images, name, labels=labels)
        head = _DATA_URL.match(name)
        if head is None:
            problem = "remote_image: an image is named by an address; fetch it, and name its file"
            return RawImage(ref=ref, data=b"", problem=problem)
        try:
            data = base64.b64decode(name[head.end() :], validate=True)
        except binascii.Error:
            return RawImage(ref=ref, data=b"", problem="malformed_item: an image is no base64")
        return RawImage(ref=ref, data=data, labels=labels)


def _join(
    entries: Sequence[Entry[_Conversation]], find_problem: Callable[[_Conversation], str]
) -> list[tuple[list[Entry[_Conversation]], list[Entry[_Conversation]]]]:
    """Return the items of each study, in the order of the first, and those that they belong to.

    The two are one list, but for an item that says what another of its group says: it stays apart,
    so that ingest counts it.
    """
    groups: dict[tuple[Any, ...], list[Entry[_Conversation]]] = {}
    studies = []
    for entry in entries:
        item, own = entry.value, [entry]
        if item is None or item.id is None or find_problem(item):
            studies.append((own, own))
            continue
        group = groups.setdefault((item.id, tuple(item.names), item.patient), own)
        if group is own or any(_says(other) == _says(entry) for other in group):
            studies.append((own, group))
        else:
            group.append(entry)
    return studies


def _to_text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _says(entry: Entry[_Conversation]) -> tuple[Turn, ...]:
    return _turns(entry.value) if entry.value else ()


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
    turns: list[Turn] = []
    for person, assistant in zip(spoken[::2], spoken[1::2], strict=True):
        question = person.text.replace(_MARKER, "").strip()
        topic = FOLLOW_UP if turns and _follows(question) else TOPIC
        turns.append(Turn(question=question, answer=assistant.text.strip(), topic=topic))
    return tuple(turns)


def _follows(question: str) -> bool:
    """Whether a question needs what was said before it, by its words or its brevity."""
    words = re.findall(r"\w+", question)
    is_latin = question.isascii()
    length = len(words) if is_latin else len("".join(words))
    is_short = length < (_MIN_WORDS if is_latin else _MIN_CHARACTERS)
    return is_short or _FOLLOWS.search(question) is not None


def _without_system(item: _Conversation) -> list[_Message]:
    messages = item.messages
    return messages[1:] if messages and messages[0].role == "system" else messages


def _is_url(name: str) -> bool:
    return bool(_REMOTE.match(name)) or name.startswith("data:")


def _to_messages(item: Mapping[str, Any]) -> dict[str, Any]:
    """Bring an item of any spelling to `messages` with texts and `images` with names."""
    known = {key: item[key] for key in ("id", "patient", "description") if key in item}
    messages, named = [], []
    for message in _spoken(item):
        if isinstance(message, dict):
            key = "value" if "value" in message else "content"
            text, names = _read_content(message.get(key))
            message = {**message, key: text}
            named += names
        messages.append(message)
    images = item.get("images", item.get("image")) or []
    listed = images if isinstance(images, list) else [images]
    return {**known, "messages": messages, "images": [*map(_name_of, listed)] or named}


def _spoken(item: Mapping[str, Any]) -> list[Any]:
    """The messages of an item, whatever it calls them."""
    for key in ("conversations", "messages"):
        if key in item:
            return item[key] if isinstance(item[key], list) else [item[key]]
    for asked, answered in (("instruction", "output"), ("query", "response")):
        if asked in item and answered in item:
            question = [part for part in (item[asked], item.get("input")) if part]
            if not all(isinstance(part, str) for part in question):
                raise ValueError(f"{asked} or input is no text")
            pairs = [*(item.get("history") or []), ["\n".join(question), item[answered]]]
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                raise ValueError("history is no list of pairs")
            return [
                {"role": role, "content": text}
                for pair in pairs
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
    raise ValueError(
        "it has no conversations, messages, instruction with output, or query with response"
    )


def _read_content(content: Any) -> tuple[Any, list[str]]:  # noqa: ANN401 - any JSON value
    """Read content parts as a text with a marker for each image, and the images' names."""
    if not isinstance(content, list):
        return content, []
    texts, names = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text"):
            texts.append(part.get("text"))
        elif kind in ("image", "image_url", "input_image"):
            texts.append(_MARKER)
            names += [_name_of(part[key]) for key in ("image", "image_url", "path") if key in part]
        else:
            raise ValueError(f"content part {kind or 'without a type'} is no text and no image")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a content part has no text")
    return "\n".join(texts), names


def _name_of(image: Any) -> Any:  # noqa: ANN401 - pydantic checks what comes out
    """What an image is called: a text, or what an object has for its place."""
    if isinstance(image, dict):
        return next((image[key] for key in ("path", "url", "image") if image.get(key)), None)
    return image
