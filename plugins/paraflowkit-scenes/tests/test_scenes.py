"""Captions, pictures and the held-out set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraflowkit_scenes.draw import SIZE, Picture, Placed, draw
from paraflowkit_scenes.sample import example, prompts, random_picture, random_scene
from paraflowkit_scenes.scene import Scene, Thing, read
from paraflowkit_scenes.training.text import make_tokenizer, words
from paraflowkit_scenes.vocabulary import (
    BACKGROUNDS,
    COLORS,
    KINDS,
    MAX_TOKENS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    held_out,
)

things = st.builds(
    Thing,
    st.sampled_from(list(COLORS)),
    st.sampled_from(KINDS),
    st.sampled_from(list(SIZES)),
    st.sampled_from(TEXTURES),
)
backgrounds = st.none() | st.sampled_from(list(BACKGROUNDS))
scenes = st.one_of(
    st.builds(lambda t, p, b: Scene((t,), None, p, b), things, st.none() | st.sampled_from(list(PLACES)), backgrounds),
    st.builds(
        lambda t, r, b: Scene(t, r, None, b),
        st.tuples(things, things),
        st.none() | st.sampled_from(list(RELATIONS)),
        backgrounds,
    ),
    st.builds(lambda t, b: Scene(t, None, None, b), st.tuples(things, things, things), backgrounds),
)


@given(scenes)
def test_a_caption_is_read_back(scene: Scene) -> None:
    assert read(scene.caption) == scene


@pytest.mark.parametrize(
    ("caption", "same"),
    [
        ("A red circle  above a blue square", "a red circle above a blue square"),
        ("a red circle to the left of a blue square on a white background.", None),
        ("an orange star, a red ring, and a green letter B", "an orange star, a red ring and a green letter b"),
    ],
)
def test_people_write_captions_in_other_ways(caption: str, same: str | None) -> None:
    assert read(caption).caption == (same or "a red circle left of a blue square on white")


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("a photo of a cat", "'a photo of a cat'"),
        ("a red circle on mars", "' on mars'"),
        ("a red circle and a blue square and a green star and a pink heart", "''"),
        ("a red circle above a blue square above a green star", "''"),
        ("", "''"),
    ],
)
def test_a_caption_that_cannot_be_read_is_refused_with_the_place(caption: str, rest: str) -> None:
    with pytest.raises(ValueError, match="A caption names one to three things") as error:
        read(caption)
    assert f"from {rest} on" in str(error.value)


def test_training_scenes_have_no_held_out_pair_and_evaluation_scenes_have_one() -> None:
    rng = np.random.default_rng(0)
    seen = [random_scene(rng) for _ in range(2000)]
    assert not any(held_out(thing.color, thing.kind) for scene in seen for thing in scene.things)
    unseen = [random_scene(rng, "held-out") for _ in range(300)]
    assert all(held_out(scene.things[0].color, scene.things[0].kind) for scene in unseen)
    # Each colour and each kind is seen in training, only not with the other.
    assert {thing.color for scene in seen for thing in scene.things} == set(COLORS)
    assert {thing.kind for scene in seen for thing in scene.things} == set(KINDS)
    assert all(sum(held_out(color, kind) for color in COLORS) == 1 for kind in KINDS)


def test_the_held_out_prompts_are_500_fixed_ones() -> None:
    made = prompts()
    captions = [scene.caption for scene in made]
    assert len(set(captions)) == 500
    assert [sum(len(scene.things) == n for scene in made) for n in (1, 2, 3)] == [200, 200, 100]
    assert all(scene.relation for scene in made if len(scene.things) == 2)
    assert captions == [scene.caption for scene in prompts()]
    assert (captions[0], captions[-1]) == (
        "a red circle on the right on navy",
        "a small blue crescent, a small red star and an orange square on gray",
    )


def test_every_caption_fits_into_the_encoders_one_token_a_word() -> None:
    tokenizer = make_tokenizer()
    assert all(len(tokenizer(word).input_ids) == 3 for word in words())
    captions = [scene.caption for scene in prompts()]
    captions += [example(0, index)[1].scene.caption for index in range(300)]
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= MAX_TOKENS
    assert tokenizer.unk_token_id not in tokenizer("Una città, 3 cats!").input_ids[1:-1]


def test_an_example_is_its_seed_and_index() -> None:
    image, picture = example(3, 17)
    again, _ = example(3, 17)
    other, _ = example(3, 18)
    assert image.shape == (3, SIZE, SIZE)
    assert image.dtype == np.float32
    assert np.array_equal(image, again)
    assert not np.array_equal(image, other)
    assert image.min() >= -1
    assert image.max() <= 1
    assert draw(picture) == pytest.approx(image)


def test_pictures_obey_their_captions() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = random_scene(rng)
        placed = random_picture(scene, rng).placed
        for i, one in enumerate(placed):
            low, high = SIZES[one.thing.size]
            assert low <= one.radius <= high
            assert one.radius <= one.x <= SIZE - one.radius
            assert one.radius <= one.y <= SIZE - one.radius
            for other in placed[:i]:
                assert np.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius
        if scene.relation:
            ux, uy = RELATIONS[scene.relation]
            assert (placed[0].x - placed[1].x) * ux + (placed[0].y - placed[1].y) * uy > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_is_drawn_in_its_colour_inside_its_circle(kind: str) -> None:
    placed = Placed(Thing("red", kind), 30.0, 34.0, 14.0)
    image = (draw(Picture(Scene((placed.thing,)), (placed,), (255.0, 255.0, 255.0))) + 1) * 127.5
    painted = np.abs(image - np.array(COLORS["red"])[:, None, None]).max(0) < 2
    assert 0.1 < painted.sum() / (np.pi * 14.0**2) < 1.0
    rows, columns = np.nonzero(image.min(0) < 250)
    # The corners of a square reach a little beyond the circle, those of a letter's box farther.
    reach = 14.0 * (1.45 if kind not in SHAPES else 1.15) + 1
    assert np.hypot(columns + 0.5 - placed.x, rows + 0.5 - placed.y).max() < reach


def test_textures_differ() -> None:
    made = []
    for texture in TEXTURES:
        placed = Placed(Thing("blue", "circle", texture=texture), 32.0, 32.0, 14.0)
        made.append(draw(Picture(Scene((placed.thing,)), (placed,), (250.0, 250.0, 250.0))))
    for i, one in enumerate(made):
        for other in made[:i]:
            assert np.abs(one - other).mean() > 0.01
