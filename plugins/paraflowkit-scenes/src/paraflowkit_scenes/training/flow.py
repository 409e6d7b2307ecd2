"""The text-to-image flow: an MMDiT with its two text encoders, trained together on latents of scenes.

Rectified flow [1]: the network regresses noise − data at (1 − σ) data + σ noise, with logit-normal σ [2]. One caption
in eight is replaced by the empty one for classifier-free guidance [3].

The pipeline without a T5 encoder appends a row of ``max_sequence_length`` zero vectors to the captions' tokens. They
are all alike and carry no position, so that one of them with log n added to its attention logits is n of them. Training
uses that, with n at random, so that the network is at home with any ``max_sequence_length``.

A second stage, ``refine``, goes on from the first one's weights, with a lesson in layout beside the flow's own
(:mod:`~paraflowkit_scenes.training.layout`), and leaves a word out of one caption in eight, so that what each word
means is learned by itself.

[1] Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow, ICLR 2023.
[2] Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, ICML 2024.
[3] Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paraflowkit_scenes.training.batches import batch, generator
from paraflowkit_scenes.training.layout import Layout, layout, lesson
from paraflowkit_scenes.training.loop import Run, Settings
from paraflowkit_scenes.training.text import make_encoder, make_tokenizer, tokens

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SETTINGS = Settings(steps=5300, batch=64, learning_rate=2e-3, ema=0.998)
REFINE = Settings(steps=8700, batch=64, learning_rate=1.5e-3, cooldown=0.6, ema=0.999, seed=1)
DROP = 0.12
#: Share of captions that lose a word in the second stage.
DROP_WORD = 0.12
#: Weight of the layout's lesson, and after which of the transformer's blocks it is asked.
LESSON, MIDDLE = 0.05, 3
#: Mean and standard deviation of logit σ.
LOGIT = (0.2, 1.1)
#: The most zero tokens that training pretends to see: the pipeline's default.
NULLS = 256

WIDTH = 192
ENCODERS = ((128, 3), (64, 2))
ARCHITECTURE: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": WIDTH // 32,
    "caption_projection_dim": WIDTH,
    "joint_attention_dim": sum(width for width, _ in ENCODERS),
    "pooled_projection_dim": sum(width for width, _ in ENCODERS),
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}


class Biased:
    """Joint attention of image and text that adds ``attention_mask`` to the logits.

    In plain products: with 85 tokens the logits are small, and the backward pass of torch's fused attention takes half
    of a training step on a CPU in bfloat16.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        def heads(x: Tensor, norm: nn.Module | None = None) -> Tensor:
            x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return x if norm is None else norm(x)

        image, text = hidden_states, encoder_hidden_states
        query = torch.cat([heads(attn.to_q(image), attn.norm_q), heads(attn.add_q_proj(text), attn.norm_added_q)], 2)
        key = torch.cat([heads(attn.to_k(image), attn.norm_k), heads(attn.add_k_proj(text), attn.norm_added_k)], 2)
        value = torch.cat([heads(attn.to_v(image)), heads(attn.add_v_proj(text))], 2)
        logits = (query * query.shape[-1] ** -0.5) @ key.mT
        weights = torch.softmax(logits if attention_mask is None else logits + attention_mask, -1)
        out = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        image, text = out[:, : image.shape[1]], out[:, image.shape[1] :]
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


class Painter(nn.Module):
    """Everything that the flow trains: the transformer and both text encoders.

    Args:
        tokenizer: of the captions; shared by both encoders.
    """

    def __init__(self, tokenizer: Any) -> None:
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        super().__init__()
        self.transformer = SD3Transformer2DModel(**ARCHITECTURE)
        self.transformer.set_attn_processor(Biased())  # type: ignore[arg-type]
        self.text_encoder, self.text_encoder_2 = (make_encoder(tokenizer, *size) for size in ENCODERS)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token features (n, length, joint) and pooled ones (n, joint), as the pipeline puts them together."""
        made = [encoder(ids, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        return torch.cat([m.hidden_states[-2] for m in made], -1), torch.cat([m.text_embeds for m in made], -1)

    def forward(self, x: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Velocity (n, 4, 16, 16) at ``x``; ``mask`` is of :func:`multiplicity`."""
        features, pooled = self.encode(ids)
        null = features.new_zeros(len(features), 1, features.shape[-1])
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=torch.cat([features, null], 1),
            pooled_projections=pooled,
            timestep=sigma * 1000,
            joint_attention_kwargs={"attention_mask": mask},
        ).sample


def times(count: int, draw: torch.Generator) -> Tensor:
    """Stratified logit-normal σ (count,): one in each of ``count`` cells of equal odds, which calms the loss."""
    u = (torch.arange(count) + torch.rand(count, generator=draw)) / count
    mean, deviation = LOGIT
    return torch.sigmoid(mean + deviation * math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-0.999999, 0.999999)))


def multiplicity(count: float, length: int) -> Tensor:
    """The attention bias (1, 1, 1, length) under which the last of ``length`` keys stands for ``count`` equal ones."""
    mask = torch.zeros(1, 1, 1, length)
    mask[..., -1] = math.log(count)
    return mask


def shorten(caption: str, draw: torch.Generator) -> str:
    """The caption without one of its words, any but ``a``, ``an``, ``and`` and ``on``; commas stay."""
    words = caption.split()
    said = [n for n, word in enumerate(words) if word not in ("a", "an", "and", "on")]
    gone = said[int(torch.randint(len(said), (), generator=draw))]
    comma = "," if words[gone].endswith(",") and gone else ""
    return " ".join(words[:gone]) + comma + " ".join(["", *words[gone + 1 :]])


def load(painter: Painter, folder: Path) -> None:
    """Give a painter the weights in the folders ``transformer``, ``text_encoder`` and ``text_encoder_2``, as float32.

    Raises:
        FileNotFoundError: one of the three has no safetensors file.
    """
    for part in PARTS:
        path = next((folder / part).glob("*.safetensors"), None)
        if path is None:
            raise FileNotFoundError(f"{folder / part}: no safetensors file there to start from.")
        getattr(painter, part).load_state_dict({name: value.float() for name, value in load_file(path).items()})


def products(fabric: Fabric) -> torch.dtype:
    """The type in which a fabric multiplies float32 matrices."""
    one = fabric.to_device(torch.ones(1, 1))
    with fabric.autocast():
        return (one @ one).dtype


class Refined(nn.Module):
    """A painter, and what its second stage trains beside it."""

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        self.painter, self.layout = painter, Layout(WIDTH)
        self.hidden: list[Tensor] = []
        painter.transformer.transformer_blocks[MIDDLE].register_forward_hook(lambda _, __, out: self.keep(out[1]))

    def keep(self, hidden: Tensor) -> None:
        self.hidden.append(hidden)

    def forward(self, *given: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Velocity of the painter, and the layout's logits."""
        self.hidden.clear()
        made = self.painter(*given)
        return made, self.layout(self.hidden.pop())


def train(
    fabric: Fabric,
    vae: Any,
    folder: Path,
    settings: Settings = SETTINGS,
    compiled: bool = False,
    start: Path | None = None,
    **options: Any,
) -> Painter:
    """Train the flow on latents of ``vae``; returns it with averaged weights.

    Args:
        compiled: by ``torch.compile``. start: a folder with the first stage's weights, see :func:`load`. Given it, this
            is the second stage.
    """
    torch.manual_seed(settings.seed)
    tokenizer = make_tokenizer()
    painter = Painter(tokenizer)
    whole: nn.Module = painter
    if start is not None:
        load(painter, start)
        whole = Refined(painter)
    run = Run(fabric, whole, settings, folder, adam=ADAM, dtype=products(fabric))
    network: Any = torch.compile(run.network) if compiled else run.network
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    keys = (ARCHITECTURE["sample_size"] // ARCHITECTURE["patch_size"]) ** 2 + tokenizer.model_max_length + 1

    def loss(step: int) -> Tensor:
        draw = generator(settings.seed, step, fabric.global_rank)
        images, pictures = batch(settings.seed, step, settings.batch, fabric.global_rank, fabric.world_size)
        with torch.no_grad(), fabric.autocast():
            data = (vae.encode(fabric.to_device(images)).latent_dist.mean.float() - shift) * scale
        dropped = torch.rand(len(images), generator=draw) < DROP
        captions = ["" if drop else p.scene.caption for drop, p in zip(dropped.tolist(), pictures, strict=True)]
        if start is not None:
            cut = (torch.rand(len(images), generator=draw) < DROP_WORD).tolist()
            captions = [shorten(c, draw) if c and now else c for c, now in zip(captions, cut, strict=True)]
        sigma = fabric.to_device(times(len(images), draw))
        noise = fabric.to_device(torch.randn(data.shape, generator=draw))
        count = NULLS ** float(torch.rand((), generator=draw))
        s = sigma.view(-1, 1, 1, 1)
        ids, mask = fabric.to_device((tokens(tokenizer, captions), multiplicity(count, keys)))
        with fabric.autocast():
            made = network((1 - s) * data + s * noise, sigma, ids, mask)
        velocity, logits = made if start is not None else (made, None)
        error = (velocity.float() - (noise - data)).square().mean()
        if logits is None:
            return error
        return error + LESSON * lesson(logits, fabric.to_device(layout(pictures)))

    run.fit(loss, **options)
    whole.load_state_dict(run.average)
    return painter.eval()


#: What is trained, by the names of the pipeline.
PARTS = ("transformer", "text_encoder", "text_encoder_2")
#: Layers whose matrices AdamW trains: embeddings, input, output, and the modulations, which start at their final scale.
ADAM = ("embedding", "pos_embed", "proj_out", "time_text_embed", "norm1", "norm_out", "context_embedder", "layout")
