"""Languages and pairs of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from metanmt.errors import UsageError

CODE = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, order=True)
class Pair:
    """A translation direction: from `source` into `target`."""

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pair that "fi-en" names: letters, digits and underscores on each side of one hyphen.

        Raises:
            UsageError: the text is not of that form, or both sides are the same.
        """
        source, hyphen, target = text.partition("-")
        remedy = "Write it as SOURCE-TARGET, such as fi-en; a code of several parts with underscores: pt_BR-en."
        if not (hyphen and CODE.fullmatch(source) and CODE.fullmatch(target)):
            raise UsageError(f"{text!r} is not a language pair.", remedy)
        if source == target:
            raise UsageError(f"{text!r} is not a language pair: both sides are the same language.", remedy)
        return cls(source, target)

    def turned(self) -> Self:
        """Return the pair of the other direction."""
        return type(self)(self.target, self.source)

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"
