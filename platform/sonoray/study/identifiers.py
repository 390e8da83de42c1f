"""What is known to identify the people of a study, so that texts can be searched for it.

It imports nothing: the processes that decode DICOM objects stay small.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Identifiers:
    """What is known to identify a study's people, to be searched for in its texts and no more.

    It is neither stored nor shown: a repr has no values.
    """

    names: tuple[str, ...] = field(default=(), repr=False)
    """Persons as DICOM writes them: groups between `=`, components between `^`; or plain."""
    numbers: tuple[str, ...] = field(default=(), repr=False)
    """Identifiers, addresses and telephone numbers; those below four characters are not used."""
    places: tuple[str, ...] = field(default=(), repr=False)
    """Institutions."""

    @classmethod
    def of(cls, *refs: str) -> "Identifiers":
        """References of whatever kind: one with a digit is a number, any other a name."""
        numbers = tuple(ref for ref in refs if any(map(str.isdigit, ref)))
        return cls(names=tuple(ref for ref in refs if ref not in numbers), numbers=numbers)

    def joined(self, other: "Identifiers") -> "Identifiers":
        """All values of both, each once."""
        return Identifiers(
            names=tuple(dict.fromkeys(self.names + other.names)),
            numbers=tuple(dict.fromkeys(self.numbers + other.numbers)),
            places=tuple(dict.fromkeys(self.places + other.places)),
        )


NOBODY = Identifiers()
"""Nothing is known of anybody."""
