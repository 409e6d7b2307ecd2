"""Encoded prompts: what the rows of a condition stand for, where they are kept, and files of them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paraflowkit.errors import ParaflowkitError

#: Tensors of one encoded prompt by their names, without a batch dimension.
Encoded = dict[str, Tensor]


@dataclass(frozen=True)
class Wish:
    """A prompt, or with ``negative`` that of the unguided branch; None is what the pipeline takes where none is given.

    The two are kept apart because pipelines may encode them differently: SDXL's missing negative prompt is all zeros.
    """

    text: str | None
    negative: bool = False


class PromptStore:
    """Encoded prompts by number.

    A network may take several tensors of a prompt, of different shapes: embeddings, a pooled one, a mask. Conditions of
    a solve are one tensor a sample, which is gathered by sample, doubled for guidance and, on several devices, split by
    rows. So the condition is the number of a prompt in this store, and what it stands for is looked up where the
    network is called: an int64 tensor is gathered and sent for nothing, no precision plugin rounds it, and rows of one
    call may belong to different prompts. Each prompt is encoded alone, so what it becomes does not depend on its
    neighbours.

    Args:
        encode: makes the tensors of a wish. kept: encoded prompts that are kept beyond those in use.
    """

    def __init__(self, encode: Callable[[Wish], Encoded], kept: int = 32) -> None:
        self.encode = encode
        self.kept = kept
        self.wishes: list[Wish] = []
        self.numbers: dict[Wish, int] = {}
        self.encoded: OrderedDict[int, Encoded] = OrderedDict()

    def add(self, wish: Wish) -> int:
        """The wish's number; nothing is encoded yet."""
        if wish not in self.numbers:
            self.numbers[wish] = len(self.wishes)
            self.wishes.append(wish)
        return self.numbers[wish]

    def prepare(self, numbers: Iterable[int]) -> None:
        """Encode these, and forget the oldest others."""
        wanted = list(dict.fromkeys(numbers))
        for number in wanted:
            if number not in self.encoded:
                with torch.no_grad():
                    self.encoded[number] = self.encode(self.wishes[number])
            self.encoded.move_to_end(number)
        while len(self.encoded) > max(self.kept, len(wanted)):
            self.encoded.popitem(last=False)

    def rows(self, numbers: Tensor, dtype: torch.dtype) -> Encoded:
        """The tensors of rows: ``(rows, …)`` each, on the numbers' device, floating-point ones in ``dtype``.

        Raises:
            ValueError: the rows' prompts have different lengths.
        """
        wanted = numbers.tolist()
        unique = list(dict.fromkeys(wanted))
        self.prepare(unique)
        place = torch.tensor([unique.index(number) for number in wanted], device=numbers.device)
        found: Encoded = {}
        for name in self.encoded[unique[0]]:
            parts = [self.encoded[number][name] for number in unique]
            if any(part.shape != parts[0].shape for part in parts):
                raise ValueError(f"Prompts of one call must be encoded to one length; {name!r} differs between them.")
            stacked = torch.stack(parts).to(numbers.device)
            found[name] = (stacked.to(dtype) if stacked.is_floating_point() else stacked)[place]
        return found

    def moved(self) -> None:
        """Forget what is encoded: the encoders have another precision or device now."""
        self.encoded.clear()


def write_prompts(path: Path, encoded: dict[Wish, Encoded]) -> None:
    """Write encoded prompts as one safetensors file, whose metadata names them."""
    tensors = {f"{i}.{name}": t.contiguous() for i, e in enumerate(encoded.values()) for name, t in e.items()}
    names = [[wish.text, wish.negative] for wish in encoded]
    path.write_bytes(save(tensors, {"prompts": json.dumps(names)}))


def read_prompts(path: Path) -> dict[Wish, Encoded]:
    """Read a file of :func:`write_prompts`.

    Raises:
        ParaflowkitError: there is no such file, or it holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            names = json.loads(file.metadata()["prompts"])
            found = {Wish(text, negative): Encoded() for text, negative in names}
            parts = list(found.values())
            for key in file.keys():  # noqa: SIM118  # it is no mapping
                number, name = key.split(".", 1)
                parts[int(number)][name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ParaflowkitError(
            f"model.embeddings: {path} is no file of encoded prompts, as diffusers-pipeline's save_prompts writes it."
        ) from error
    return found
