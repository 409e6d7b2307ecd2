"""Putting trained parts together into the folders that are shipped: float16, safetensors, in the usual formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from paraflowkit_scenes.training.text import make_tokenizer, write_no_t5, write_tokenizer


def make_pipeline(vae: Any, transformer: Any, text_encoder: Any, text_encoder_2: Any, shift: float) -> Any:
    """A ``StableDiffusion3Pipeline`` of the trained parts, with a T5 encoder that answers zeros."""
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import T5EncoderModel, T5TokenizerFast

    with TemporaryDirectory() as name:
        folder = Path(name)
        write_no_t5(folder / "encoder", folder / "tokenizer", transformer.config.joint_attention_dim)
        return StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=make_tokenizer(),
            text_encoder_2=text_encoder_2,
            tokenizer_2=make_tokenizer(),
            text_encoder_3=T5EncoderModel.from_pretrained(folder / "encoder", dtype=torch.float32),
            tokenizer_3=T5TokenizerFast.from_pretrained(folder / "tokenizer"),
        )


def as_float32(folder: Path) -> None:
    """Let weights that are stored in half precision be loaded as float32, as transformers does by the configuration."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


#: The shift of the sampling times towards noise, σ ↦ shift σ / (1 + (shift − 1) σ).
SHIFT = 3.0


def assemble(trained: Path, folder: Path) -> None:
    """Write ``scenes-sd3``, ``scenes-detector`` and ``scenes-clip`` from the stages' results.

    Args:
        trained: the training command's ``--out``. folder: receives the three folders.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    flow = trained / "flow" / "done"
    pipe = make_pipeline(
        AutoencoderKL.from_pretrained(trained / "vae" / "done", local_files_only=True),
        SD3Transformer2DModel.from_pretrained(flow / "transformer", local_files_only=True),
        CLIPTextModelWithProjection.from_pretrained(flow / "text_encoder", local_files_only=True),
        CLIPTextModelWithProjection.from_pretrained(flow / "text_encoder_2", local_files_only=True),
        SHIFT,
    )
    pipe.to(torch.float16)
    pipe.save_pretrained(folder / "scenes-sd3", safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        as_float32(folder / "scenes-sd3" / name)
    # What save_pretrained of transformers 5 writes for a tokenizer is not what transformers 4 reads.
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / "scenes-sd3" / name)
        write_tokenizer(folder / "scenes-sd3" / name)
    for name in ("detector", "clip"):
        shutil.copytree(trained / name / "done", folder / f"scenes-{name}", dirs_exist_ok=True)
    as_float32(folder / "scenes-clip")
    for stage in ("vae", "flow"):
        source = trained / stage / "done" / "training.json"
        shutil.copyfile(source, folder / "scenes-sd3" / f"training-{stage}.json")
