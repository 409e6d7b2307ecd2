"""The words of the captions: shapes, letters, colours, textures, sizes, places, relations, backgrounds.

Every list is closed and ordered, because an index into it is also a class of the detector. No torch here: captions can
be made and read without it.
"""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond", "hexagon", "crescent")
LETTERS = ("a", "b", "c", "e", "h", "k", "l", "m", "r", "s", "t", "x")
#: What an object can be: ten shapes, then twelve letters ("letter a" …).
KINDS = (*SHAPES, *(f"letter {letter}" for letter in LETTERS))

#: sRGB, 0 … 255.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 222, 50),
    "green": (45, 165, 70),
    "cyan": (60, 205, 222),
    "blue": (45, 80, 225),
    "purple": (140, 55, 190),
    "pink": (248, 135, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (14, 14, 16),
    "gray": (140, 142, 145),
    "navy": (22, 28, 78),
    "cream": (250, 238, 205),
    "brown": (98, 62, 38),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
#: Ranges of the radius of an object's bounding circle, in pixels of a 64-pixel image.
SIZES: dict[str, tuple[float, float]] = {"small": (7.0, 8.0), "medium": (10.0, 11.4), "big": (13.6, 15.0)}
#: Place of a lone object: the phrase, and the ranges of its centre as shares of the free room (x, y; y downwards).
PLACES: dict[str, tuple[str, tuple[float, float], tuple[float, float]]] = {
    "left": ("on the left", (0.0, 0.12), (0.3, 0.7)),
    "right": ("on the right", (0.88, 1.0), (0.3, 0.7)),
    "top": ("at the top", (0.3, 0.7), (0.0, 0.12)),
    "bottom": ("at the bottom", (0.3, 0.7), (0.88, 1.0)),
    "center": ("in the center", (0.45, 0.55), (0.45, 0.55)),
}
#: Place of the first object seen from the second: the unit vector from the second to the first.
RELATIONS: dict[str, tuple[int, int]] = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}

#: The longest caption in tokens, with its begin and end: the text encoders' sequence length.
MAX_TOKENS = 20


def held_out(color: str, kind: str) -> bool:
    """Whether a colour and a kind never meet in a training scene: one pair in eight, each colour and kind alike."""
    return (list(COLORS).index(color) + 3 * KINDS.index(kind)) % 8 == 0
