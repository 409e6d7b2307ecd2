"""Pieces that the tiny pipelines share: seeds, tokenizers written here, embeddings."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def seeded(make: Any, **config: Any) -> Any:
    """A module of this configuration whose weights are the same every time, in eval mode."""
    torch.manual_seed(0)
    return make(**config).eval()


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    """Normal numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quiet(pipe: Any) -> Any:
    """The pipeline with its progress bar off."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def alive(module: Any, scale: float = 0.05) -> Any:
    """The module with small normal numbers wherever a parameter was all zeros, so that no output is zero by design."""
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=source))
    return module


def assemble(pipeline: Any, **parts: Any) -> Any:
    """A pipeline of those parts that its class takes, ``None`` for those it must have and was not given; no bar."""
    takes = inspect.signature(pipeline.__init__).parameters
    absent = {name: None for name, each in takes.items() if each.default is each.empty and name != "self"}
    return quiet(pipeline(**(absent | {name: part for name, part in parts.items() if name in takes})))


def clip_tokenizer(length: int = 8) -> Any:
    """A CLIP tokenizer that knows the letters alone."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(each + "</w>" for each in letters)]
    return CLIPTokenizer({word: n for n, word in enumerate(words)}, [], model_max_length=length)


def clip_text(make: Any = None, width: int = 16, **config: Any) -> Any:
    """A CLIP text encoder for :func:`clip_tokenizer`; ``make`` may be the one with a projection."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": width, "intermediate_size": 24, "projection_dim": width, "num_attention_heads": 2}
    sizes |= {"num_hidden_layers": 2, "vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 1}
    torch.manual_seed(0)
    config = CLIPTextConfig(**(sizes | {"bos_token_id": 0, "pad_token_id": 1} | config))
    return alive((make or CLIPTextModel)(config).eval())


def picture(size: int, seed: int = 3) -> Any:
    """A square RGB image of noise on a ramp."""
    import numpy as np
    from PIL import Image

    ramp = torch.linspace(0, 180, size)[:, None, None]
    return Image.fromarray((ramp + 75 * torch.sigmoid(randn(size, size, 3, seed=seed))).numpy().astype(np.uint8))


def tokenizer(length: int = 16, **special: Any) -> Any:
    """A tokenizer that splits at spaces and hashes nothing: a few words and ``<unk>`` for all others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "a",
        "red",
        "cat",
        "two",
        "blue",
        "boats",
        "bad",
        "ugly",
        "in",
        "the",
        "night",
        "of",
    ]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **names | special)
