"""Rows of network calls: which argument carries rows, and several calls as one.

A call of a denoiser has B rows: guidance branches (outer) times samples (inner). Several calls become one whose rows
are branches times (call, sample) pairs, in that order: networks that cut their batch into branches, as
perturbed-attention guidance does, then still cut it rightly.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Path = tuple[Any, ...]
#: of an argument that is not a container: a tensor with rows, one value a call, one a row of a list, or shared by all.
Kind = Literal["rows", "value", "item", "shared"]

_MAIN = ("hidden_states", "sample", "x", "latents", "noisy_latents")
_SHARED = ("ids", "indices", "rotary", "rope", "freqs", "pos", "grid", "coords")
_TIMES = ("timestep", "timesteps", "t", "sigma", "r_timestep")
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Unbatchable(Exception):
    """Calls that cannot be made as one; the message says why."""


def is_container(node: Any) -> bool:
    return isinstance(node, (dict, list, tuple))


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of a container."""
    return iter(node.items() if isinstance(node, dict) else enumerate(node))


def rebuild(like: Any, values: Sequence[Any]) -> Any:
    """A container of the kind of ``like`` with these values."""
    if isinstance(like, dict):
        pairs = dict(zip(like, values, strict=True))
        if hasattr(like, "to_tuple"):  # an output class of diffusers or transformers
            return type(like)(**pairs)
        made: Any = copy.copy(like)
        made.update(pairs)
        return made
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*values)
    return type(like)(values) if isinstance(like, (list, tuple)) else list(values)


def clone(node: Any) -> Any:
    """The tree with new containers and new tensors; everything else is the same object."""
    if isinstance(node, Tensor):
        return node.clone()
    return rebuild(node, [clone(v) for _, v in children(node)]) if is_container(node) else node


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """What is not a container, in order, with its path."""
    if is_container(node):
        for key, value in children(node):
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit for bit; values that are not finite included."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return bool(torch.equal(a, b)) or not bool(differing(a, b).any())


def differing(a: Tensor, b: Tensor) -> Tensor:
    """Where the bits of two tensors of one shape and dtype differ, bool."""
    if not a.dtype.is_floating_point:
        return a != b
    bits = _BITS[a.dtype.itemsize]
    return a.contiguous().view(bits) != b.contiguous().view(bits)


@dataclass(frozen=True)
class Layout:
    """How the arguments of one kind of call carry its rows.

    Attributes:
        rows: B. units: samples that progress on their own, P. kinds, spans: of each leaf by path; a tensor of span m
            has ``B * m`` entries along its first dimension. lists: paths of lists with an item a row.
    """

    rows: int
    units: int
    kinds: dict[Path, Kind]
    spans: dict[Path, int]
    lists: frozenset[Path]

    @property
    def branches(self) -> int:
        return self.rows // self.units

    def unit_of(self, path: Path) -> int | None:
        """The sample that an item of a list with an item a row belongs to."""
        for end in range(1, len(path)):
            if path[:end] in self.lists:
                return int(path[end]) % self.units
        return None

    def split(self, tensor: Tensor, span: int) -> Tensor:
        """``(branches, units, span, …)``."""
        return tensor.reshape(self.branches, self.units, span, *tensor.shape[1:])


def main_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that carries a call's state: by name, else the first that looks like it."""
    for name in _MAIN:
        if isinstance(kwargs.get(name), (Tensor, list)):
            return kwargs[name]
    for value in (*args, *kwargs.values()):
        if (isinstance(value, Tensor) and value.ndim >= 2) or (
            isinstance(value, list) and value and all(isinstance(v, Tensor) for v in value)
        ):
            return value
    return None


def layout(tree: tuple[tuple[Any, ...], dict[str, Any]], samples: int, shared: Collection[Path] = ()) -> Layout:
    """How a call carries its rows.

    Args:
        tree: positional and named arguments. samples: rows of the sampler's state; they progress on their own where the
            call's rows are a multiple of them. shared: paths of what looks as if it carried rows and does not.

    Raises:
        Unbatchable: no argument carries rows.
    """
    main = main_argument(*tree)
    listed = isinstance(main, (list, tuple))
    if main is None or not len(main):
        raise Unbatchable("the network has no argument with rows")
    rows = len(main)
    kinds: dict[Path, Kind] = {}
    spans: dict[Path, int] = {}
    lists: set[Path] = set()

    def of_rows(node: Any) -> bool:
        plain = not any(isinstance(leaf, Tensor) for _, leaf in leaves(node))
        return isinstance(node, (list, tuple)) and len(node) == rows and (listed or plain) and len(node) > 0

    def visit(node: Any, path: Path, item: bool) -> None:
        if is_container(node):
            if not item and len(path) > 1 and path not in shared and of_rows(node):
                lists.add(path)
                item = True
            for key, value in children(node):
                visit(value, (*path, key), item)
        elif item:
            kinds[path] = "item"
        elif isinstance(node, Tensor):
            kinds[path], spans[path] = ("shared", 1) if path in shared else _tensor_kind(node, path, rows)
        else:
            number = isinstance(node, (int, float)) and not isinstance(node, bool)
            kinds[path] = "value" if number and path[-1] in _TIMES else "shared"

    visit(tree, (), False)
    units = samples if samples and rows % samples == 0 else 1
    return Layout(rows, units, kinds, spans, frozenset(lists))


def _tensor_kind(tensor: Tensor, path: Path, rows: int) -> tuple[Kind, int]:
    if tensor.ndim == 0 or (tensor.ndim == 1 and len(tensor) == 1):
        return "value", 1
    if len(tensor) == rows:
        return "rows", 1
    several = tensor.ndim >= 3 and len(tensor) and len(tensor) % rows == 0
    if several and not shared_by_name(path):
        return "rows", len(tensor) // rows
    return "shared", 1


def shared_by_name(path: Path) -> bool:
    """Whether an argument's name is one of those that all rows share: positions and the like."""
    return any(word in str(path[1:]) for word in _SHARED)


def gather(layout_: Layout, calls: Sequence[tuple[Any, list[int]]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of several calls as one call.

    Args:
        calls: the trees of arguments, alike but for their values, and the samples wanted of each.
    """
    b, p = layout_.branches, layout_.units
    tensors = (leaf for _, leaf in leaves(main_argument(*calls[0][0])) if isinstance(leaf, Tensor))
    device = next((tensor.device for tensor in tensors), None)

    def build(nodes: list[Any], path: Path) -> Any:
        first = nodes[0]
        if path in layout_.lists:
            picked = (
                clone(n[r * p + u]) for r in range(b) for n, (_, us) in zip(nodes, calls, strict=True) for u in us
            )
            return rebuild(first, list(picked))
        if is_container(first):
            return rebuild(first, [build([n[key] for n in nodes], (*path, key)) for key, _ in children(first)])
        kind = layout_.kinds[path]
        if kind == "rows":
            span = layout_.spans[path]
            parts = [
                layout_.split(n, span) if len(us) == p else layout_.split(n, span)[:, us]
                for n, (_, us) in zip(nodes, calls, strict=True)
            ]
            return torch.cat(parts, 1).reshape(-1, *first.shape[1:])
        if kind == "value":
            values = [
                torch.as_tensor(n).reshape(1, 1).expand(b, len(us)) for n, (_, us) in zip(nodes, calls, strict=True)
            ]
            # One time may stay on the CPU, and networks take it from there; several are expected where the rows are.
            return torch.cat(values, 1).reshape(-1).to(device)
        return first.clone() if isinstance(first, Tensor) else first

    args, kwargs = build([tree for tree, _ in calls], ())
    return args, kwargs


def scatter(layout_: Layout, out: Any, like: Any, counts: Sequence[int]) -> list[Any]:
    """The output of one gathered call as those of its parts, ``counts[k]`` samples each.

    Args:
        like: output of a single call with all rows, which shows what carries rows.

    Returns:
        Trees as ``like``; a tensor of ``B * m`` rows becomes ``(branches, counts[k], m, …)``.

    Raises:
        Unbatchable: the output is not shaped as the single one.
    """
    b, total = layout_.branches, sum(counts)
    if not any(isinstance(leaf, Tensor) for _, leaf in leaves(like)):
        raise Unbatchable(f"its output is a {type(like).__name__}, not a tensor or a tuple, list or dict of them")

    def part(node: Any, model: Any, start: int, count: int) -> Any:
        if isinstance(model, Tensor):
            span, odd = divmod(len(model), layout_.rows) if model.ndim else (0, 1)
            good = isinstance(node, Tensor) and node.ndim == model.ndim and node.shape[1:] == model.shape[1:]
            if odd or not span or not good or len(node) != b * total * span:
                raise Unbatchable(f"its output has the shape {tuple(getattr(node, 'shape', ()))} for {b * total} rows")
            return node.reshape(b, total, span, *node.shape[1:])[:, start : start + count]
        if is_container(model):
            if type(node) is not type(model):
                raise Unbatchable("its output changes its form with the rows")
            if isinstance(model, (list, tuple)) and len(model) == layout_.rows and len(node) == b * total != len(model):
                return Items([node[r * total + start + c] for r in range(b) for c in range(count)])
            if isinstance(model, (list, tuple)) and len(model) == layout_.rows and _row_items(model):
                return Items([node[r * total + start + c] for r in range(b) for c in range(count)])
            if len(node) != len(model):
                raise Unbatchable("its output changes its form with the rows")
            return rebuild(model, [part(node[key], value, start, count) for key, value in children(model)])
        return model

    found: list[Any] = []
    start = 0
    for count in counts:
        found.append(part(out, like, start, count))
        start += count
    return found


def take(layout_: Layout, out: Any, units: list[int]) -> Any:
    """The part of an output that belongs to these samples, in the form that :func:`put` takes."""
    b, p = layout_.branches, layout_.units
    if isinstance(out, Tensor):
        return out.view(b, p, len(out) // layout_.rows, *out.shape[1:])[:, units]
    if is_container(out):
        if isinstance(out, (list, tuple)) and len(out) == layout_.rows and _row_items(out):
            return Items([out[r * p + u] for r in range(b) for u in units])
        return rebuild(out, [take(layout_, value, units) for _, value in children(out)])
    return out


class Items(list[Any]):
    """Items of a list with one a row, ``branches * samples`` of them."""


def _row_items(model: Any) -> bool:
    """Whether a list as long as the rows holds one item a row: tensors that carry no rows themselves."""
    return len(model) > 1 and all(isinstance(v, Tensor) and v.ndim and len(v) % len(model) for v in model)


def put(layout_: Layout, old: Any, new: Any, units: list[int]) -> Any:
    """The output ``old`` with the rows of these samples taken from a part made by :func:`scatter`."""
    b, p = layout_.branches, layout_.units
    if isinstance(old, Tensor):
        if len(units) == p:
            return new.reshape(old.shape).clone()
        made = old.clone()
        made.view(b, p, len(old) // layout_.rows, *old.shape[1:])[:, units] = new
        return made
    if isinstance(new, Items):
        items = list(old)
        for i, (r, u) in enumerate((r, u) for r in range(b) for u in units):
            items[r * p + u] = new[i].clone()
        return rebuild(old, items)
    if is_container(old):
        return rebuild(old, [put(layout_, value, new[key], units) for key, value in children(old)])
    return old
