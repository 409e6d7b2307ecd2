"""Loading of networks, schedulers' configurations and pipelines from folders or the hub."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import HubConfig, NetworkConfig

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
#: Pipeline classes that are known -> the attribute that holds the network.
PIPELINES = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "StableDiffusion3Pipeline": "transformer",
    "FluxPipeline": "transformer",
    "PixArtAlphaPipeline": "transformer",
    "PixArtSigmaPipeline": "transformer",
    "DiTPipeline": "transformer",
    "DDPMPipeline": "unet",
    "DDIMPipeline": "unet",
}


def place(config: HubConfig) -> str:
    """The folder, or the name of a repository of the hub.

    Raises:
        ParaflowkitError: it is neither.
    """
    if Path(config.folder).is_dir():
        return config.folder
    if _HUB.fullmatch(config.folder) is None:
        raise ParaflowkitError(
            f"model.folder: there is no folder {config.folder!r}, and it is no name of a repository of the hub, such "
            "as 'owner/name'."
        )
    return config.folder


def _options(config: HubConfig) -> dict[str, Any]:
    return {"revision": config.revision, "local_files_only": not config.download}


def _refuse(config: HubConfig, what: str, error: Exception) -> ParaflowkitError:
    """The cause in one sentence, with the remedy."""
    cause = " ".join(str(error).split())
    if not Path(config.folder).is_dir() and not config.download:
        return ParaflowkitError(
            f"model.folder: there is no folder {config.folder!r}, and the local cache of the hub does not hold {what} "
            "of a repository of that name: set model.download to true to fetch it, or give a folder."
        )
    absent = ("no file named", "not found", "no such modeling files")
    if any(words in cause.lower() for words in absent) and ("safetensors" in cause or "variant" in cause):
        return ParaflowkitError(
            f"model.folder: {config.folder} holds no safetensors weights of {what}"
            f"{'' if config.variant is None else f' in the variant {config.variant!r}'}, and pickled ones are refused: "
            "save it again with safe_serialization=True, or choose another variant."
        )
    return ParaflowkitError(f"model.folder: {what} of {config.folder} cannot be loaded: {cause[:300]}")


def _weights(config: HubConfig) -> dict[str, Any]:
    """Arguments that load weights; pickled ones are refused."""
    from diffusers.utils import deprecation_utils

    # The argument was renamed, and the old name warns: the resolver of the two came with the new one.
    name = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
    return {name: getattr(torch, config.dtype), "variant": config.variant, "use_safetensors": True, **_options(config)}


def scheduler_config(config: HubConfig) -> dict[str, Any]:
    """The folder's scheduler configuration with the settings over it.

    Raises:
        ParaflowkitError: there is none, and the settings name no scheduler.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    where = place(config)
    error: Exception | None = None
    for subfolder in ("scheduler", None):
        try:
            found: Any = DDIMScheduler.load_config(where, subfolder=subfolder, **_options(config))
        except Exception as caught:
            error = error or caught
            continue
        return {**dict(found), **config.scheduler}
    if "_class_name" in config.scheduler:
        return dict(config.scheduler)
    if error is not None and not Path(where).is_dir():
        raise _refuse(config, "the scheduler", error) from error
    raise ParaflowkitError(
        f"model.folder: {where} has no scheduler, neither scheduler/scheduler_config.json nor scheduler_config.json, "
        "so the process is not known: set model.scheduler, such as {_class_name: DDIMScheduler}."
    ) from error


def load_network(config: NetworkConfig) -> Any:
    """The network alone, in eval mode.

    Raises:
        ParaflowkitError: it is not there, or its class is not one of diffusers'.
    """
    import diffusers
    from diffusers.models.unets.unet_2d import UNet2DModel

    where = place(config)
    choices: list[str | None] = [config.subfolder] if config.subfolder is not None else ["unet", "transformer", None]
    error: Exception | None = None
    for subfolder in choices:
        if Path(where).is_dir() and not (Path(where) / (subfolder or "") / "config.json").is_file():
            continue
        try:
            found: Any = UNet2DModel.load_config(where, subfolder=subfolder or None, **_options(config))
        except Exception as caught:
            error = caught
            continue
        name = found.get("_class_name")
        made: Any = getattr(diffusers, str(name), None)
        if not hasattr(made, "from_pretrained"):
            raise ParaflowkitError(f"model.folder: {where} holds a {name!r}, which is no network of diffusers.")
        try:
            network = made.from_pretrained(where, subfolder=subfolder or None, **_weights(config))
        except Exception as caught:
            raise _refuse(config, "the network", caught) from caught
        return network.eval().requires_grad_(False)
    if error is not None:
        raise _refuse(config, "the network", error) from error
    looked = " nor ".join(f"{choice or '.'}/config.json" for choice in choices)
    raise ParaflowkitError(f"model.folder: {where} holds no network: there is no {looked}.")


def load_pipeline(config: HubConfig) -> Any:
    """The pipeline, on the CPU.

    Raises:
        ParaflowkitError: it is not there, of another class, or needs a package that is missing.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    where = place(config)
    try:
        index: Any = DiffusionPipeline.load_config(where, **_options(config))
    except Exception as error:
        if not Path(where).is_dir():
            raise _refuse(config, "the pipeline", error) from error
        raise ParaflowkitError(
            f"model.folder: {where} is no folder of a pipeline: there is no model_index.json. For a network alone use "
            "the model diffusers-unet or diffusers-transformer."
        ) from error
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:  # a list names code in the folder, which is never run
        found = name if isinstance(name, str) else f"{name[-1]} of its own"
        raise ParaflowkitError(
            f"model.folder: {where} holds a {found}, and diffusers-pipeline knows {', '.join(PIPELINES)}: "
            "paraflowkit.enable(pipe) accelerates any other inside its own loop."
        )
    libraries = {part: value[0] for part, value in index.items() if isinstance(value, (list, tuple)) and value}
    # Parts that were saved as missing, text encoders for instance, are taken to be missing on purpose.
    absent = {part: None for part, library in libraries.items() if library is None}
    if "transformers" in libraries.values() and find_spec("transformers") is None:
        raise ParaflowkitError(
            f"model.folder: the text encoders of {where} need the package transformers: install it with "
            "pip install transformers."
        )
    try:
        pipe: Any = DiffusionPipeline.from_pretrained(where, **absent, **_weights(config))
    except Exception as error:
        raise _refuse(config, "the pipeline", error) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
