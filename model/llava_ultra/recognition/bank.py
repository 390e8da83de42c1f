"""Banks of classes: what may be recognised, in which words, and which labels make it true.

A class has a name, several short descriptions as a report would word them, and the values of a
study label that make it true. A study may be of several classes, where its label lists them with a
separator; "no finding" is a class like any other. Descriptions are encoded apart and pooled, one
aspect or appearance each, as GMAT does (arXiv 2508.01293), and not one long paragraph.
"""

from collections.abc import Collection, Iterator, Mapping

from pydantic import Field, model_validator

from llava_ultra.towers.tower_config import ModelPart

CLASS_MARK = "{class}"
"""Stands for the class's name in a prompt."""


class BankClass(ModelPart):
    """One class."""

    name: str = Field(min_length=1)
    values: tuple[str, ...] = ()
    """Values of the label that make it true; empty stands for its name."""
    label: str = ""
    """Study label, where it is not the bank's."""
    aliases: tuple[str, ...] = ()
    """Other words for it, which no training text may hold where it is held out."""
    absence_of: str = ""
    """Of a class like "no lesion": what is absent. In words it is asked whether that is there."""
    descriptions: tuple[str, ...] = ()
    """How it looks; empty stands for the prompt with its name."""
    excludes: tuple[str, ...] = ()
    """Words that no description of it may hold."""


class ClassBank(ModelPart):
    """Classes that exclude or join each other, and what they have in common."""

    name: str = ""
    language: str = Field(default="zh", min_length=2)
    source: str = ""
    """Where the descriptions are from."""
    label: str = ""
    """Study label that says what a study is; needed where studies are to be labelled."""
    separator: str = ""
    """Between the values of a label that holds several; empty: it holds one."""
    prompt: str = CLASS_MARK
    """Sentence of a class's name, as in `这是一张胸片，显示{class}。`."""
    classes: tuple[BankClass, ...]

    @model_validator(mode="after")
    def _check(self) -> "ClassBank":
        if len(self.classes) < 2:
            raise ValueError(
                f"the bank has {len(self.classes)} class; what is recognised is told from "
                "something, so give at least two, 'no finding' among them"
            )
        if CLASS_MARK not in self.prompt:
            raise ValueError(
                f"prompt {self.prompt!r} has no place for the name; write {CLASS_MARK}"
            )
        _check_once([each.name for each in self.classes], "class names")
        _check_once([text.strip() for _, text in self.texts()], "descriptions")
        for each, text in self.texts():
            if not text.strip():
                raise ValueError(
                    f"class {each.name!r} has an empty description; write or remove it"
                )
            if named := [word for word in each.excludes if word in text]:
                raise ValueError(
                    f"a description of class {each.name!r} names {named[0]!r}, which the class "
                    f"excludes: {text[:60]!r}; reword it"
                )
        return self

    def texts(self) -> Iterator[tuple[BankClass, str]]:
        """Each class with each of its texts."""
        for each in self.classes:
            for text in each.descriptions or (self.prompt_of(each),):
                yield each, text

    def prompt_of(self, chosen: BankClass) -> str:
        """The prompt with a class's name."""
        return self.prompt.replace(CLASS_MARK, chosen.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its classes, in order."""
        return tuple(each.name for each in self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        """The study labels that it reads, its own first."""
        own = [self.label, *(each.label for each in self.classes)]
        return tuple(dict.fromkeys(label for label in own if label))

    def classes_of(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """The classes that a study's labels make true, by number; none where it says nothing.

        Raises:
            ValueError: the bank's own label has a value that is of no class.
        """
        parts = self._parts(labels.get(self.label, ""))
        own = [each for each in self.classes if each.label in ("", self.label)]
        known = {value for each in own for value in (each.values or (each.name,))}
        if foreign := [part for part in parts if part not in known]:
            raise ValueError(
                f"label {self.label} = {foreign[0]!r} is of no class of bank {self.name!r}, which "
                f"knows {', '.join(sorted(known))}; add it to a class's values, or a class"
            )
        return tuple(
            number
            for number, each in enumerate(self.classes)
            if set(self._parts(labels.get(each.label or self.label, "")))
            & set(each.values or (each.name,))
        )

    def _parts(self, value: str) -> list[str]:
        parts = value.split(self.separator) if self.separator else [value]
        return [part.strip() for part in parts if part.strip()]

    def only(self, names: Collection[str]) -> "ClassBank":
        """The bank with some of its classes alone.

        Raises:
            ValueError: fewer than two are left.
        """
        kept = tuple(each for each in self.classes if each.name in names)
        return ClassBank.model_validate(
            {**self.model_dump(), "classes": [each.model_dump() for each in kept]}
        )


def _check_once(texts: list[str], what: str) -> None:
    twice = [text for number, text in enumerate(texts) if text in texts[:number]]
    if twice:
        raise ValueError(f"two {what} of the bank are equal: {twice[0][:60]!r}; reword one")
