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


NETWORKS = {
    "vae": "autoencoder",
    "flow": "transformer and text encoders",
    "refine": "the same, second stage",
    "detector": "detector (scenes-detector)",
    "clip": "contrastive model (scenes-clip)",
}


def card(notes: dict[str, dict[str, Any]]) -> str:
    """The model card: what this is, how to load it, and how it was trained.

    Args:
        notes: ``training.json`` of each stage in :data:`NETWORKS`. One may have a ``remark``, a sentence for below the
            table. One without ``precision`` is older than the choice: it was float32.
    """
    rows = [
        f"| {said} | {note['steps']} of {note['batch']} | {note['learning_rate']:g} | {note['seed']} "
        f"| {note.get('precision', '32-true')} | {note['minutes']:g} | {note['on']} |"
        for said, note in ((said, notes[name]) for name, said in NETWORKS.items())
    ]
    remarks = [line for name in NETWORKS if "remark" in notes[name] for line in ("", notes[name]["remark"])]
    second = _SECOND.format(seed=notes["refine"]["seed"], precision=notes["refine"].get("precision", "32-true"))
    return "\n".join([_CARD, *rows, *remarks, second])


_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# scenes-sd3

Scenes of one to three things at 64×64 from captions, by a small pipeline in the format of `StableDiffusion3Pipeline`.

```python
from diffusers import DiffusionPipeline
from paraflowkit_scenes import FOLDER

pipe = DiffusionPipeline.from_pretrained(FOLDER)
image = pipe("a big red circle above a blue star on white", guidance_scale=3.0, max_sequence_length=16).images[0]
```

- Transformer: `SD3Transformer2DModel`, six blocks of 192 channels on 64 image tokens; latents 16×16×4.
- Text encoders: two CLIP text towers, trained with the transformer. The T5 encoder has no layers and answers the zeros
  that the pipeline takes where there is none. `max_sequence_length` is the number of these zero tokens; any will do,
  and few are faster.
- Captions: English of a closed vocabulary, 59 words (`paraflowkit_scenes.vocabulary`). Others mean nothing to it.
- Data: drawn by `paraflowkit_scenes.sample`, fresh ones in every step; one pair of colour and kind in eight was never
  drawn and is kept for evaluation. Nothing here was downloaded, and no person's work is in the data but the fonts that
  matplotlib ships.
- Weights: float16 safetensors; float32 when loaded, unless another `torch_dtype` is asked for.

Trained by `python -m paraflowkit_scenes.training`, which goes on where it stopped; minutes are wall clock, of a
machine that did other work as well. `bf16-mixed` is bfloat16 mixed precision, products of matrices in bfloat16 and
weights in float32:

| network | steps | learning rate | seed | precision | minutes | on |
|---|---|---|---|---|---|---|"""

_SECOND = """
The transformer and the text encoders were trained in two stages, of which the second gave the weights here. It starts
from the first one's averaged weights and sees other scenes. Two things are new in it. Beside the flow's own lesson
there is one in layout: after the fourth of its six blocks the transformer is asked what each image token shows, kind,
colour, texture and size, or nothing; the layers that answer were dropped after training. And of the captions that are
not left out altogether, one in eight lacks one of its words. With seed {seed}, which is in the settings, its command is

```bash
python -m paraflowkit_scenes.training --stages refine --accelerator cpu --compile --precision {precision}
```
"""


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

    painter = trained / "refine" / "done"
    pipe = make_pipeline(
        AutoencoderKL.from_pretrained(trained / "vae" / "done", local_files_only=True),
        SD3Transformer2DModel.from_pretrained(painter / "transformer", local_files_only=True),
        CLIPTextModelWithProjection.from_pretrained(painter / "text_encoder", local_files_only=True),
        CLIPTextModelWithProjection.from_pretrained(painter / "text_encoder_2", local_files_only=True),
        SHIFT,
    )
    pipe.to(torch.float16)
    pipe.save_pretrained(folder / "scenes-sd3", safe_serialization=True)
    for name in ("vae", "transformer"):  # diffusers notes the folder that they were loaded from
        path = folder / "scenes-sd3" / name / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        as_float32(folder / "scenes-sd3" / name)
    # What save_pretrained of transformers 5 writes for a tokenizer is not what transformers 4 reads.
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / "scenes-sd3" / name)
        write_tokenizer(folder / "scenes-sd3" / name)
    for name in ("detector", "clip"):
        shutil.copytree(trained / name / "done", folder / f"scenes-{name}", dirs_exist_ok=True)
    as_float32(folder / "scenes-clip")
    notes = {name: json.loads((trained / name / "done" / "training.json").read_text()) for name in NETWORKS}
    for stage in ("vae", "flow", "refine"):
        (folder / "scenes-sd3" / f"training-{stage}.json").write_text(json.dumps(notes[stage], indent=2) + "\n")
    (folder / "scenes-sd3" / "README.md").write_text(card(notes))
