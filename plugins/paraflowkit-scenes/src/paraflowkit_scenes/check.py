"""Does an image show what its caption says? Answered from what the detector sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor

from paraflowkit_scenes.detector import Detector, Found, Seen
from paraflowkit_scenes.scene import Scene, Thing, read
from paraflowkit_scenes.vocabulary import PLACES, RELATIONS

#: How far from the middle, in pixels, a lone thing has to be to be "on the left" and so on, and to be "in the center".
_ASIDE, _CENTRAL = 4.0, 8.0


@dataclass(frozen=True)
class Verdict:
    """What of a caption an image shows.

    Attributes:
        count: as many things as the caption names.
        things: each of them, with its kind and colour. details: their sizes and textures as well.
        arrangement: the relation or place, true where the caption says none.
        background: true where the caption says none.
    """

    count: bool
    things: bool
    details: bool
    arrangement: bool
    background: bool

    @property
    def right(self) -> bool:
        """Everything that the caption says is there, and nothing else."""
        return self.count and self.things and self.details and self.arrangement and self.background


def _arranged(scene: Scene, found: Sequence[Found]) -> bool:
    if scene.relation is not None:
        (ux, uy), (one, two) = RELATIONS[scene.relation], found
        dx, dy = one.x - two.x, one.y - two.y
        return dx * ux + dy * uy > abs(dx * uy) + abs(dy * ux)
    if scene.place is None:
        return True
    dx, dy = found[0].x - 32, found[0].y - 32
    if scene.place == "center":
        return max(abs(dx), abs(dy)) < _CENTRAL
    _, x, y = PLACES[scene.place]
    ux, uy = round(2 * sum(x) / 2 - 1), round(2 * sum(y) / 2 - 1)
    return dx * ux + dy * uy > _ASIDE


def _same(thing: Thing, found: Found, details: bool) -> bool:
    named = (thing.kind, thing.color) == (found.kind, found.color)
    return named and (not details or (thing.size, thing.texture) == (found.size, found.texture))


def judge(scene: Scene, seen: Seen) -> Verdict:
    """Hold what was seen against a caption's scene."""
    count = len(seen.things) == len(scene.things)
    best = Verdict(count, False, False, False, scene.background in (None, seen.background))
    for found in permutations(seen.things, len(scene.things)):
        if all(_same(t, f, False) for t, f in zip(scene.things, found, strict=True)):
            details = all(_same(t, f, True) for t, f in zip(scene.things, found, strict=True))
            this = Verdict(count, True, details, _arranged(scene, found), best.background)
            best = max(best, this, key=lambda v: (v.right, v.things, v.arrangement, v.details))
    return best


def check(detector: Detector, captions: Sequence[str | Scene], images: Tensor) -> list[Verdict]:
    """Judge images (n, 3, 64, 64) in −1 … 1 against their captions.

    Raises:
        ValueError: a caption is not of the grammar, or there are more images than captions or fewer.
    """
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images; each image needs its own.")
    scenes = [caption if isinstance(caption, Scene) else read(caption) for caption in captions]
    return [judge(scene, seen) for scene, seen in zip(scenes, detector.see(images), strict=True)]
