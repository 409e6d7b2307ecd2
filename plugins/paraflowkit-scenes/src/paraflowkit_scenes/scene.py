"""A scene: up to three objects on a background, with the caption that describes it; and reading a caption back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from paraflowkit_scenes.vocabulary import (
    BACKGROUNDS,
    COLORS,
    KINDS,
    LETTERS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
)


@dataclass(frozen=True)
class Thing:
    """One object as a caption speaks of it.

    Attributes:
        color, kind: a name of ``COLORS`` and of ``KINDS``.
        size: a name of ``SIZES``. An unspoken size is ``medium``.
        texture: a name of ``TEXTURES``. An unspoken texture is ``plain``.
    """

    color: str
    kind: str
    size: str = "medium"
    texture: str = "plain"

    @property
    def phrase(self) -> str:
        words = [word for word in (self.size, self.texture, self.color, self.kind) if word not in ("medium", "plain")]
        return " ".join(["an" if words[0] == "orange" else "a", *words])


@dataclass(frozen=True)
class Scene:
    """What a caption says.

    Attributes:
        things: one to three, in the order of the caption.
        relation: where the first of two things is, seen from the second; a name of ``RELATIONS``. None: not said.
        place: where a lone thing is; a name of ``PLACES``. None: not said.
        background: a name of ``BACKGROUNDS``. None: not said.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    place: str | None = None
    background: str | None = None

    @property
    def caption(self) -> str:
        phrases = [thing.phrase for thing in self.things]
        if self.relation:
            said = f"{phrases[0]} {self.relation} {phrases[1]}"
        elif len(phrases) > 1:
            said = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
        else:
            said = phrases[0] if self.place is None else f"{phrases[0]} {PLACES[self.place][0]}"
        return said if self.background is None else f"{said} on {self.background}"


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(sorted((re.escape(word) for word in words), key=len, reverse=True))


_THING = (
    rf"an?(?: (?P<size>{_alternatives(SIZES)}))?(?: (?P<texture>{_alternatives(TEXTURES)}))?"
    rf" (?P<color>{_alternatives(COLORS)}) (?P<kind>{_alternatives(KINDS)})"
)
_PLACES = {phrase: name for name, (phrase, _, _) in PLACES.items()}


def read(caption: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        ValueError: the caption is not of the grammar; the sentence shows where reading stopped and what it may say.
    """
    rest = " ".join(caption.lower().split())
    background = None
    if match := re.search(rf" on (?:an? )?(?P<name>{_alternatives(BACKGROUNDS)})(?: background)?\.?$", rest):
        background, rest = match["name"], rest[: match.start()]
    things: list[Thing] = []
    relation = place = None
    while True:
        match = re.match(_THING, rest)
        if match is None:
            break
        things.append(Thing(match["color"], match["kind"], match["size"] or "medium", match["texture"] or "plain"))
        rest = rest[match.end() :]
        joined = re.match(rf"(?:, and |, | and |(?: to the)? (?P<relation>{_alternatives(RELATIONS)}) )(?=an? )", rest)
        if joined is None:
            break
        relation = joined["relation"] or relation
        rest = rest[joined.end() :]
    if len(things) == 1 and (match := re.fullmatch(rf" (?P<place>{_alternatives(_PLACES)})", rest)):
        place, rest = _PLACES[match["place"]], ""
    if not 1 <= len(things) <= 3 or rest or (relation and len(things) != 2):
        raise ValueError(
            f"Cannot read {caption!r} from {rest!r} on. A caption names one to three things ('a small striped red "
            f"circle'), two of them perhaps with {', '.join(repr(r) for r in RELATIONS)} between, one perhaps with a "
            f"place ({', '.join(repr(p) for p in _PLACES)}), and perhaps a background ('on white'). "
            f"Shapes: {', '.join(SHAPES)}; letter {', '.join(LETTERS)}. Colours: {', '.join(COLORS)}. "
            f"Backgrounds: {', '.join(BACKGROUNDS)}."
        )
    return Scene(tuple(things), relation, place, background)
