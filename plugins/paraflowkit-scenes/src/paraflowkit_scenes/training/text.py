"""The tokenizer of the captions' words, and fresh text encoders of CLIP's architecture.

The vocabulary is CLIP's kind: byte pairs [1] learned from the captions themselves, until each of their words is one
token. Any other text is still read, in smaller pieces.

[1] Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, ACL 2016.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from paraflowkit_scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, MAX_TOKENS, PLACES, RELATIONS, SIZES, TEXTURES

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Every word that a caption can have, sorted."""
    phrases = [*COLORS, *BACKGROUNDS, *TEXTURES, *SIZES, *KINDS, *RELATIONS]
    phrases += [phrase for phrase, _, _ in PLACES.values()]
    return sorted({word for phrase in [*phrases, "a an and on ,"] for word in phrase.split()})


def write_tokenizer(folder: Path, length: int = MAX_TOKENS) -> None:
    """Write a CLIP tokenizer in which each word of the captions is one token, in the format that all versions read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False, min_frequency=1
    )
    learner.train_from_iterator([" ".join(words())] * 4, trainer)
    merges = [
        pair.split(" ") if isinstance(pair, str) else pair for pair in json.loads(learner.to_str())["model"]["merges"]
    ]
    # Sorted: merges that are equally frequent come out in another order in each process, and a token's number must not
    # depend on that. Whole words are one token in any order of those.
    merged = sorted({a + b for a, b in merges})
    pieces = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters), *merged, BEGIN, END])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": BEGIN,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def make_tokenizer() -> Any:
    """The tokenizer of :func:`write_tokenizer`, loaded."""
    from transformers import CLIPTokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)


def text_config(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    """Settings of a CLIP text tower of ``width`` channels and ``layers`` layers for this tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 32),
        "max_position_embeddings": tokenizer.model_max_length,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_encoder(tokenizer: Any, width: int, layers: int) -> Any:
    """A fresh ``CLIPTextModelWithProjection``."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    # Plain attention products train faster; the choice is not saved with the weights.
    config = CLIPTextConfig(**text_config(tokenizer, width, layers), attn_implementation="eager")
    return CLIPTextModelWithProjection(config)


def write_no_t5(encoder: Path, tokenizer: Path, width: int) -> None:
    """Write a T5 encoder of no layers that answers zeros ``(n, length, width)``, and a tokenizer that knows no word.

    Stable Diffusion 3 may run without its T5 encoder, and the pipeline then takes such zeros; but ``from_pretrained``
    of a folder without one wants to be told ``text_encoder_3=None``. With this one it needs no telling.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    sizes = {"vocab_size": 3, "d_model": width, "d_kv": 1, "d_ff": 1, "num_layers": 0, "num_heads": 1}
    model = T5EncoderModel(T5Config(**sizes, is_encoder_decoder=False, use_cache=False, pad_token_id=0, eos_token_id=1))
    torch.nn.init.zeros_(model.shared.weight)
    model.half().save_pretrained(encoder)
    none = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], unk_id=2))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    T5TokenizerFast(tokenizer_object=none, extra_ids=0, model_max_length=512, **names).save_pretrained(tokenizer)


def tokens(tokenizer: Any, captions: list[str]) -> Any:
    """Token indices (n, length), as the pipeline makes them."""
    length = tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
