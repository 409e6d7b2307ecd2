"""The flow's training: times, attention, and what its second stage adds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from paraflowkit_scenes.draw import Picture, Placed
from paraflowkit_scenes.scene import Scene, Thing
from paraflowkit_scenes.training import flow
from paraflowkit_scenes.training.batches import generator
from paraflowkit_scenes.training.flow import Painter, multiplicity, shorten, times
from paraflowkit_scenes.training.layout import layout, lesson
from paraflowkit_scenes.training.text import make_tokenizer, tokens, write_no_t5
from paraflowkit_scenes.training.vae import make_vae
from paraflowkit_scenes.vocabulary import COLORS, KINDS, SIZES, TEXTURES


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def test_numbers_of_tokens_do_not_depend_on_the_process() -> None:
    made = make_tokenizer().get_vocab()
    by_number = sorted(made, key=lambda piece: made[piece])
    merged = [piece for piece in by_number if len(piece.removesuffix("</w>")) > 1 and not piece.startswith("<|")]
    assert len(merged) > 100
    assert merged == sorted(merged)


def test_times_are_stratified_logit_normal() -> None:
    sigma = times(4000, generator(0, 0)).double()
    logit = torch.logit(sigma)
    assert float(logit.mean()) == pytest.approx(0.2, abs=0.01)
    assert float(logit.std()) == pytest.approx(1.1, abs=0.01)
    assert (times(64, generator(0, 1)).diff() > 0).all()


def _painter() -> Painter:
    torch.manual_seed(0)
    painter = Painter(make_tokenizer()).eval()
    for parameter in painter.parameters():  # some layers start at zero, and would hide everything
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.05)
    return painter


def test_attention_without_a_mask_is_that_of_diffusers() -> None:
    from diffusers.models.attention_processor import JointAttnProcessor2_0

    transformer = _painter().transformer
    given = {
        "hidden_states": torch.randn(2, 4, 16, 16),
        "encoder_hidden_states": torch.randn(2, 20, 192),
        "pooled_projections": torch.randn(2, 192),
        "timestep": torch.tensor([300.0, 800.0]),
    }
    with torch.no_grad():
        ours = transformer(**given).sample
        transformer.set_attn_processor(JointAttnProcessor2_0())
        theirs = transformer(**given).sample
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_one_null_token_with_a_bias_stands_for_many(tmp_path: Path) -> None:
    """What training computes with one zero token is what the pipeline computes with 40 of its T5 encoder."""
    from diffusers.models.attention_processor import JointAttnProcessor2_0
    from transformers import T5EncoderModel, T5TokenizerFast

    painter, tokenizer = _painter(), make_tokenizer()
    ids = tokens(tokenizer, ["a red circle", "a blue square on white"])
    x, sigma = torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.8])
    write_no_t5(tmp_path / "encoder", tmp_path / "tokenizer", 192)
    encoder = T5EncoderModel.from_pretrained(tmp_path / "encoder", dtype=torch.float32)
    rows = T5TokenizerFast.from_pretrained(tmp_path / "tokenizer")(["a", "b"], padding="max_length", max_length=40)
    with torch.no_grad():
        one = painter(x, sigma, ids, multiplicity(40, 64 + 20 + 1))
        features, pooled = painter.encode(ids)
        nulls = encoder(torch.tensor(rows.input_ids))[0]
        painter.transformer.set_attn_processor(JointAttnProcessor2_0())
        many = painter.transformer(
            hidden_states=x,
            encoder_hidden_states=torch.cat([features, nulls], 1),
            pooled_projections=pooled,
            timestep=sigma * 1000,
        ).sample
    assert nulls.shape == (2, 40, 192)
    assert nulls.abs().max() == 0
    assert (one - many).abs().max() < 1e-5 * many.abs().max()


def test_a_layout_says_what_is_in_each_token() -> None:
    circle = Placed(Thing("red", "circle", "big", "striped"), x=20.0, y=20.0, radius=8.0)
    letter = Placed(Thing("pink", "letter k", "small"), x=52.0, y=44.0, radius=6.5)
    scene = Scene((circle.thing, letter.thing))
    both, one = layout([Picture(scene, (circle, letter), (0, 0, 0)), Picture(scene, (letter,), (0, 0, 0))])
    wanted = torch.zeros(8, 8, 4, dtype=torch.int64)
    spelled = [KINDS.index("letter k"), list(COLORS).index("pink"), TEXTURES.index("plain"), list(SIZES).index("small")]
    wanted[5, 6] = torch.tensor(spelled) + 1
    assert torch.equal(one, wanted.flatten(0, 1))
    drawn = [KINDS.index("circle"), list(COLORS).index("red"), TEXTURES.index("striped"), list(SIZES).index("big")]
    for row, column in ((2, 2), (1, 2), (3, 2), (2, 1), (2, 3)):
        wanted[row, column] = torch.tensor(drawn) + 1
    assert torch.equal(both, wanted.flatten(0, 1))


def _answers(wanted: Tensor, sure: Tensor) -> list[Tensor]:
    """Logits that are right where ``sure`` is 1, wrong where it is -1, and undecided where it is 0."""
    classes = [len(words) + 1 for words in (KINDS, COLORS, TEXTURES, SIZES)]
    return [
        50 * sure[..., None] * nn.functional.one_hot(wanted[..., n], count).float() for n, count in enumerate(classes)
    ]


def test_a_lesson_weighs_tokens_with_and_without_a_thing_alike() -> None:
    wanted = torch.tensor([[[3, 2, 1, 2], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])
    undecided = sum(math.log(len(words) + 1) for words in (KINDS, COLORS, TEXTURES, SIZES)) / 4
    for sure, share in (([0, 0, 0, 0], 1.0), ([0, 1, 1, 1], 0.5), ([1, 0, 0, 0], 0.5), ([1, 1, 1, 0], 1 / 6)):
        made = lesson(_answers(wanted, torch.tensor([sure])), wanted)
        assert float(made) == pytest.approx(share * undecided, rel=1e-5)
    right, wrong = (float(lesson(_answers(wanted, torch.full((1, 4), sign)), wanted)) for sign in (1, -1))
    assert right < 1e-6 < undecided < wrong


@pytest.mark.parametrize(
    ("caption", "shorter"),
    [
        ("an orange circle", {"an circle", "an orange"}),
        (
            "a big letter a on the left on white",
            {
                "a letter a on the left on white",
                "a big a on the left on white",
                "a big letter a on left on white",
                "a big letter a on the on white",
                "a big letter a on the left on",
            },
        ),
        (
            "a ring left of a dotted star",
            {"a left of a dotted star", "a ring of a dotted star", "a ring left a dotted star"}
            | {"a ring left of a star", "a ring left of a dotted"},
        ),
        (
            "a red ring, a cyan heart and a pink letter k",
            {"a ring, a cyan heart and a pink letter k", "a red, a cyan heart and a pink letter k"}
            | {"a red ring, a heart and a pink letter k", "a red ring, a cyan and a pink letter k"}
            | {"a red ring, a cyan heart and a letter k", "a red ring, a cyan heart and a pink k"}
            | {"a red ring, a cyan heart and a pink letter"},
        ),
    ],
)
def test_a_shortened_caption_lacks_one_word_that_says_something(caption: str, shorter: set[str]) -> None:
    assert {shorten(caption, generator(0, step)) for step in range(100)} == shorter


def test_the_second_stage_begins_with_the_weights_of_the_first(fabric: Fabric, tmp_path: Path) -> None:
    first = _painter().half()
    for part in flow.PARTS:
        getattr(first, part).save_pretrained(tmp_path / part)
    no_steps = replace(flow.REFINE, steps=0)
    begun = flow.train(fabric, make_vae(), tmp_path / "run", no_steps, start=tmp_path, log=print)
    assert {p.dtype for p in begun.parameters()} == {torch.float32}
    for name, value in first.state_dict().items():
        assert torch.equal(begun.state_dict()[name], value.float()), name
    (tmp_path / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="text_encoder_2: no safetensors file"):
        flow.load(begun, tmp_path)


def test_products_are_of_the_precision_that_was_asked_for(fabric: Fabric) -> None:
    assert flow.products(fabric) == torch.float32
    assert flow.products(Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")) == torch.bfloat16
