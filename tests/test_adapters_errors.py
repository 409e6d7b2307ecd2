"""What the adapters refuse, each in one sentence with place and remedy."""

from __future__ import annotations

import json
import re
import shutil
from importlib import util
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from adapter_folders import load, save
from zoo._parts import assemble
from zoo._unets import schedule, unet, vae

from paraflowkit import registry
from paraflowkit.core.problem import make_problem
from paraflowkit.errors import ConfigError, ParaflowkitError
from paraflowkit.spacing import make_grid


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("errors")


def model(kind: str, folder: Path | str, **settings: Any) -> Any:
    return registry.get("model", kind)(registry.config_class("model", kind)(folder=str(folder), **settings))


def said(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, which is one line and no book."""
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(re.sub(r"(/[^/\s'\"]+)+", "path", text)) < 400  # pytest's folders have long names
    return text


@pytest.mark.parametrize("kind", ["diffusers-pipeline", "diffusers-unet", "diffusers-transformer", "edm"])
def test_missing_folders(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParaflowkitError) as error:
        model(kind, tmp_path / "nowhere")
    assert "there is no folder" in said(error)
    assert "'owner/name'" in said(error)
    # The cache of the hub is looked at, and the network is not.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ParaflowkitError) as error:
        model(kind, "nobody/has-this")
    assert "the local cache of the hub does not hold" in said(error)
    assert "set model.download to true" in said(error)


def test_folders_of_something_else(root: Path, tmp_path: Path) -> None:
    for kind, folder, words in (
        ("diffusers-pipeline", save("ddpm", root) / "unet", "there is no model_index.json"),
        ("diffusers-pipeline", tmp_path, "there is no model_index.json"),
        ("diffusers-unet", tmp_path, "there is no unet/config.json nor transformer/config.json nor ./config.json"),
        ("diffusers-unet", save("sd3", root), "holds a SD3Transformer2DModel: use the model diffusers-transformer"),
        ("diffusers-transformer", save("ddpm", root), "holds a UNet2DModel: use the model diffusers-unet"),
        ("diffusers-unet", save("edm", root), "use the model edm"),
        ("edm", save("ddpm", root), "is a DDPMScheduler, which does not precondition its network"),
    ):
        with pytest.raises(ParaflowkitError) as error:
            model(kind, folder)
        assert words in said(error)


def test_pipelines_of_other_families(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(save("ddpm", root), tmp_path / "other")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "SanaPipeline"}))
    with pytest.raises(ParaflowkitError, match=r"holds a SanaPipeline.*paraflowkit\.enable\(pipe\) accelerates any"):
        model("diffusers-pipeline", folder)
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["code", "DDPMPipeline"]}))
    with pytest.raises(ParaflowkitError, match="holds a DDPMPipeline of its own, and"):
        model("diffusers-pipeline", folder)
    ours = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(ours | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(ParaflowkitError) as error:
        model("diffusers-unet", folder)
    said(error)
    (folder / "unet" / "config.json").write_text(json.dumps(ours | {"_class_name": "Nonsense"}))
    with pytest.raises(ParaflowkitError, match="holds a 'Nonsense', which is no network of diffusers"):
        model("diffusers-unet", folder)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"in_channels": 9}, "takes 9 channels and gives 4, so it wants a picture or a mask"),
        ({"time_cond_proj_dim": 8}, "the UNet has time_cond_proj_dim 8"),
        ({"num_class_embeds": 5}, "the UNet has num_class_embeds 5"),
    ],
)
def test_unusual_members_of_a_family(tmp_path: Path, network: dict[str, Any], words: str) -> None:
    unet(**network).save_pretrained(tmp_path / "unet")
    schedule(diffusers.DDIMScheduler).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ParaflowkitError, match=words) as error:
        model("diffusers-unet", tmp_path)
    assert "paraflowkit.enable(pipe)" in said(error)


def test_folders_without_a_scheduler(root: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(save("ddpm", root) / "unet", tmp_path / "alone")
    with pytest.raises(ParaflowkitError) as error:
        model("diffusers-unet", alone)
    assert "set model.scheduler, such as {_class_name: DDIMScheduler}" in said(error)
    given = model("diffusers-unet", alone, scheduler={"_class_name": "DDIMScheduler", "num_train_timesteps": 500})
    assert given.noise.steps == 500
    over = model("diffusers-unet", save("ddpm", root), scheduler={"prediction_type": "v_prediction"})
    assert over.prediction.value == "v"


@pytest.mark.parametrize("kind", ["diffusers-pipeline", "diffusers-unet"])
def test_weights_that_are_not_there(root: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(save("ddpm", root), tmp_path / "f")
    with pytest.raises(ParaflowkitError) as error:
        model(kind, folder, variant="fp16")
    assert "holds no safetensors weights" in said(error)
    assert "in the variant 'fp16'" in said(error)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ParaflowkitError) as error:
        model(kind, folder)
    assert "pickled ones are refused" in said(error)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ParaflowkitError) as error:
        model(kind, folder)
    assert "cannot be loaded" in said(error)


def test_variants(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(save("ddpm", root), tmp_path / "f")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert model("diffusers-pipeline", folder, variant="fp16").shape == (3, 8, 8)
    assert model("diffusers-unet", folder, variant="fp16").shape == (3, 8, 8)


def test_without_transformers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    module = "paraflowkit.models.diffusers.load.find_spec"
    monkeypatch.setattr(module, lambda name: None if name == "transformers" else found(name))
    with pytest.raises(ParaflowkitError, match="need the package transformers: install it"):
        load(root, "sd")
    assert load(root, "ddpm").shape == (3, 8, 8)  # which has no text encoder


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sd", {"height": 17}, "model.height: 17 is no multiple of 2: choose 16 or 18"),
        ("sd3", {"width": 18}, "model.width: 18 is no multiple of 4: choose 16 or 20"),
        ("flux", {"height": 2}, "model.height: 2 is no multiple of 4: choose 4"),
        ("sd3", {"width": 64}, "makes images of up to 64 pixels"),
        ("dit", {"height": 32}, "makes images of 16 × 16 only: leave out height and width"),
        ("dit", {"negative_prompt": "bad"}, "model.negative_prompt"),
        ("sd", {"max_sequence_length": 8}, "model.max_sequence_length: a StableDiffusionPipeline takes none"),
        ("pixart", {"height": 15}, "model.height: 15 is no multiple of 4"),
    ],
)
def test_sizes_and_settings(root: Path, name: str, settings: dict[str, Any], words: str) -> None:
    if settings == {"width": 64}:
        assert load(root, name, **settings).shape == (16, 8, 32)
        settings, words = {"width": 68}, "makes images of up to 64 pixels a side, got 16 × 68"
    with pytest.raises(ParaflowkitError) as error:
        load(root, name, **settings)
    assert words in said(error)


def test_a_null_class_that_is_not_there(root: Path) -> None:
    for name, null in (("classes", 11), ("ddpm", 0)):
        with pytest.raises(ParaflowkitError, match=r"model\.null_class"):
            load(root, name, "diffusers-unet", null_class=null)
    with pytest.raises(ValueError, match="dtype"):
        registry.config_class("model", "diffusers-unet")(folder="x", dtype="int8")


def test_wishes(root: Path) -> None:
    """Prompts for classes and the other way round, and what has no unguided branch."""
    text, classes, plain = load(root, "sd"), load(root, "classes"), load(root, "ddpm")
    with pytest.raises(ValueError, match="understands 'prompts', not 'classes'"):
        text.condition([1], [None])
    with pytest.raises(ValueError, match="understands 'classes', not 'prompts'"):
        classes.condition([None], ["a cat"])
    with pytest.raises(ValueError, match=r"Class 11 does not exist: .* has classes 0 … 10"):
        classes.condition([11], [None])
    with pytest.raises(ValueError, match=r"give 'classes', or set model\.null_class"):
        classes.condition([None], [None])
    with pytest.raises(ValueError, match="is unconditional"):
        plain.condition([None], ["a cat"])
    with pytest.raises(ValueError, match=r"use guidance 1, or set model\.null_class"):
        classes.null_condition(torch.tensor([1]))
    with pytest.raises(ValueError, match="understands no prompts"):
        classes.negative_condition(torch.tensor([1]), ["bad"])
    euler = registry.get("stepper", "euler")(registry.config_class("stepper", "euler")())
    grid = make_grid(text.noise, 2)
    with pytest.raises(ValueError, match="A negative prompt has no effect at guidance 1"):
        make_problem(text, euler, grid, [0], prompts=["a"], negative_prompts=["b"])
    mixture = registry.get("model", "gaussian-mixture")(registry.config_class("model", "gaussian-mixture")())
    with pytest.raises(ValueError, match="GaussianMixture understands no negative prompts"):
        make_problem(
            mixture, euler, make_grid(mixture.noise, 2), [0], classes=[1], negative_prompts=["b"], guidance=2.0
        )


def test_folders_without_text_encoders(root: Path, tmp_path: Path) -> None:
    scheduler = schedule(diffusers.DDIMScheduler, clip_sample=False)
    made = assemble(diffusers.StableDiffusionPipeline, unet=unet(), vae=vae(), scheduler=scheduler)
    made.save_pretrained(tmp_path)
    load(root, "sd").save_prompts(tmp_path / "prompts.safetensors", ["a cat"])
    given = model("diffusers-pipeline", tmp_path, embeddings=str(tmp_path / "prompts.safetensors"))
    cond = given.condition([None, None], ["a cat", "a cat"])
    assert cond.tolist() == [0, 0]
    assert given(torch.zeros(2, 4, 8, 8), torch.tensor([9.0, 5.0]), cond).shape == (2, 4, 8, 8)
    for kind, words in (
        ("diffusers-pipeline", "has no text encoder"),
        ("diffusers-unet", "set model.embeddings to a file"),
    ):
        with pytest.raises(ValueError, match=words):
            model(kind, tmp_path).condition([None], ["a cat"])


def test_unknown_settings_are_found_before_torch(tmp_path: Path) -> None:
    from paraflowkit.config import loads

    with pytest.raises(ConfigError, match=r"model\.foldr: unknown setting\. Did you mean 'folder'"):
        loads("model: {name: diffusers-pipeline, foldr: x}\nrequests: [{prompts: [a]}]\n")
    with pytest.raises(ConfigError, match=r"model\.dtype"):
        loads("model: {name: edm, folder: x, dtype: int8}\nrequests: [{count: 1}]\n")
