"""Random scenes and pictures of scenes, each from a seed and an index, and the fixed held-out captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from paraflowkit_scenes.draw import FONTS, SIZE, Array, Picture, Placed, draw
from paraflowkit_scenes.scene import Scene, Thing
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
    held_out,
)

#: Things in a training scene: the odds of one, two and three.
COUNTS = (0.36, 0.44, 0.2)
#: The odds of small, medium and big, by the number of things: three big ones would not fit.
_SIZE_ODDS = {1: (0.2, 0.5, 0.3), 2: (0.22, 0.56, 0.22), 3: (0.4, 0.6, 0.0)}


def random_scene(rng: np.random.Generator, combos: Literal["train", "held-out"] = "train", count: int = 0) -> Scene:
    """A scene drawn at random.

    Args:
        rng: the source of chance.
        combos: ``train`` has no held-out pair of colour and kind, ``held-out`` has one in each scene (the first thing).
        count: how many things; 0 draws it by :data:`COUNTS`.
    """
    count = count or int(rng.choice(3, p=COUNTS)) + 1
    things: list[Thing] = []
    extras = 2 if count == 3 else 4  # words for size and texture that a caption of MAX_TOKENS has room for
    while len(things) < count:
        kind = str(rng.choice(SHAPES)) if rng.random() < 0.72 else f"letter {rng.choice(LETTERS)}"
        color = str(rng.choice(list(COLORS)))
        if held_out(color, kind) != (combos == "held-out" and not things):
            continue
        if any(other.color == color and other.kind == kind for other in things):
            continue
        size = str(rng.choice(list(SIZES), p=_SIZE_ODDS[count])) if extras else "medium"
        extras -= size != "medium"
        # Letters and small shapes have too few pixels for a texture that a person would recognise.
        textured = kind in SHAPES and size != "small" and extras and rng.random() < 0.45
        texture = str(rng.choice(TEXTURES[1:])) if textured else "plain"
        extras -= texture != "plain"
        things.append(Thing(color, kind, size, texture))
    place = str(rng.choice(list(PLACES))) if count == 1 and rng.random() < 0.5 else None
    relation = str(rng.choice(list(RELATIONS))) if count == 2 and rng.random() < 0.7 else None
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.85 else None
    return Scene(tuple(things), relation, place, background)


def _centres(scene: Scene, radii: Sequence[float], rng: np.random.Generator) -> list[tuple[float, float]] | None:
    """Centres without overlap that obey the caption, or None where this try found none."""

    def free(radius: float, x: tuple[float, float] = (0, 1), y: tuple[float, float] = (0, 1)) -> tuple[float, float]:
        room = SIZE - 2 * radius - 2
        return radius + 1 + room * rng.uniform(*x), radius + 1 + room * rng.uniform(*y)

    if scene.place is not None:
        _, x, y = PLACES[scene.place]
        return [free(radii[0], x, y)]
    centres = [free(radius) for radius in radii]
    if scene.relation is not None:
        (ax, ay), (bx, by) = centres
        ux, uy = RELATIONS[scene.relation]
        along, across = (ax - bx) * ux + (ay - by) * uy, abs((ax - bx) * uy) + abs((ay - by) * ux)
        if along < radii[0] + radii[1] + 1 or across > 0.6 * along:
            return None
    for i, (ax, ay) in enumerate(centres):
        for j in range(i):
            if np.hypot(ax - centres[j][0], ay - centres[j][1]) < radii[i] + radii[j] + 1:
                return None
    return centres


def random_picture(scene: Scene, rng: np.random.Generator) -> Picture:
    """A picture of a scene: places, angles, fonts, tints and the light drawn at random."""
    while True:
        radii = [float(rng.uniform(*SIZES[thing.size])) for thing in scene.things]
        centres = next((c for c in (_centres(scene, radii, rng) for _ in range(60)) if c is not None), None)
        if centres is not None:
            break
    placed: list[Placed] = []
    for thing, radius, (x, y) in zip(scene.things, radii, centres, strict=True):
        angle, font = float(rng.normal(0, 0.07)), int(rng.integers(len(FONTS)))
        red, green, blue = (float(v) for v in rng.normal(0, 6, 3))
        placed.append(Placed(thing, x, y, radius, angle, font, (red, green, blue)))
    name = scene.background or str(rng.choice(list(BACKGROUNDS)))
    light = rng.normal(0, 3, 3)
    red, green, blue = (float(base + change) for base, change in zip(BACKGROUNDS[name], light, strict=True))
    right, down = (float(v) for v in rng.normal(0, 5, 2))
    return Picture(scene, tuple(placed), (red, green, blue), (right, down))


def example(seed: int, index: int, combos: Literal["train", "held-out"] = "train") -> tuple[Array, Picture]:
    """Image (3, 64, 64) in −1 … 1 and picture number ``index`` of the endless set ``seed``."""
    rng = np.random.default_rng((seed, index))
    picture = random_picture(random_scene(rng, combos), rng)
    return draw(picture), picture


def prompts() -> list[Scene]:
    """The 500 held-out scenes of the evaluation: 200 of one thing, 200 of two with a relation, 100 of three.

    Each has a pair of colour and kind that no training scene has, so that none of the captions was ever seen.
    """
    rng = np.random.default_rng(20261121)
    made: dict[str, Scene] = {}
    for count, wanted in ((1, 200), (2, 200), (3, 100)):
        goal = len(made) + wanted
        while len(made) < goal:
            scene = random_scene(rng, "held-out", count)
            if count != 2 or scene.relation is not None:
                made.setdefault(scene.caption, scene)
    return list(made.values())


__all__ = ["KINDS", "example", "prompts", "random_picture", "random_scene"]
