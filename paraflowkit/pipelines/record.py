"""What a pipeline asked of its networks, and what they answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paraflowkit.pipelines.rows import Layout, Path, differing, is_container, leaves, rebuild, same_bits
from paraflowkit.pipelines.state import hooks_of


@dataclass(frozen=True)
class Callee:
    """A network of the pipeline and the method that was called."""

    component: str
    method: str
    real: Callable[..., Any] = field(compare=False, repr=False)  # runs it as it is
    module: Any = field(compare=False, repr=False)
    parts: tuple[Any, ...] = field(compare=False, repr=False)  # its modules

    def __str__(self) -> str:
        return self.component if self.method == "__call__" else f"{self.component}.{self.method}"


@dataclass
class Entry:
    """One call: the inputs that its output was computed for, and what the last march asked for instead.

    Attributes:
        tree: inputs of the output, by rows. out: the output. fresh: bool ``(P,)``, samples evaluated at all.
        asked: inputs of the last march. changed: bool ``(P,)``, samples whose inputs differ from those of the output.
        distance: float64 ``(P,)``, largest mean squared change of an input, over its own mean square where above 1.
        settled: neither what was asked nor the output has changed since the run before.
        node: its step. after: of the random generators after the call, where it drew something. hooks: of the network
            when it was asked.
    """

    callee: Callee
    tree: Any
    layout: Layout
    out: Any
    fresh: Tensor
    asked: Any
    changed: Tensor
    distance: Tensor
    settled: bool = False
    node: int = 0
    after: Any = None
    hooks: tuple[Any, ...] = ()

    def ask(self, tree: Any) -> None:
        """Note what this run asks for; a tree that is the very one of the last run has been compared already."""
        self.settled = tree is self.asked
        if not self.settled:
            self.hooks = hooks_of(self.callee.parts)
            self.asked = tree
            compare(self)

    def alike(self, other: Layout) -> bool:
        """Whether a call with this layout could be the same one."""
        mine = self.layout
        return (mine.rows, mine.kinds, mine.spans) == (other.rows, other.kinds, other.spans)


@dataclass
class Segment:
    """What happens between two steps of the sampler.

    Attributes:
        calls: of networks, in order. asked: the state of the last march. at: x°, that of each row's last evaluation.
        output: the step's model output at x°, kept for surrogates that take slopes; before_at, before_output: of the
            row's evaluation before, or the same ones where there was none.
        seen: rows that were ever evaluated. stale: rows of an evaluation whose output the sampler has not shown yet.
        judged: samples that were all evaluated, and those within the tolerance, when the calls were last compared.
    """

    calls: list[Entry] = field(default_factory=list[Entry])
    asked: Tensor | None = None
    at: Tensor | None = None
    output: Tensor | None = None
    before_at: Tensor | None = None
    before_output: Tensor | None = None
    seen: Tensor | None = None
    stale: Tensor | None = None
    judged: tuple[Tensor, Tensor] | None = None

    def evaluated(self, rows: Tensor, slopes: bool) -> None:
        """Note that the networks were asked at the state of the last march in these rows, bool ``(samples,)``."""
        assert self.asked is not None  # checked by the caller; this is for the type checker
        self.judged = None
        if self.at is None or self.seen is None or self.at.shape != self.asked.shape:
            self.at, self.before_at, self.output, self.before_output = self.asked, None, None, None
            self.seen, self.stale = rows.clone(), rows.clone()
            return
        if slopes:
            old = self.at if self.before_at is None else self.before_at
            self.before_at = _rows(rows & self.seen, self.at, _rows(rows, self.asked, old))
        self.at = _rows(rows, self.asked, self.at)
        self.seen, self.stale = self.seen | rows, rows if self.stale is None else self.stale | rows

    def shown(self, output: Tensor) -> None:
        """Note what the sampler makes of the networks' answers, where these are new."""
        if self.stale is None:
            return
        if self.output is None or self.before_output is None or self.output.shape != output.shape:
            self.output = self.before_output = output.clone()
            self.before_at = self.at
        else:
            self.before_output = _rows(self.stale, self.output, self.before_output)
            self.output = _rows(self.stale, output, self.output)
        self.stale = None

    def forget(self) -> None:
        """Nothing will be asked of this step any more."""
        self.at = self.asked = self.output = self.before_at = self.before_output = self.seen = self.stale = None


def _rows(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` in these rows, ``no`` in the others."""
    return torch.where(where.to(no.device).view(-1, *(1,) * (no.ndim - 1)), yes, no)


class Memory:
    """Copies of the inputs of calls. What does not change from call to call is kept once.

    Pipelines pass the same tensors (embeddings, position ids) at every step, and make equal ones in every run. A tensor
    object that was seen is known by its version, unless ``trusting`` is off: ``.data`` can be changed behind it.
    """

    def __init__(self) -> None:
        self.last: dict[tuple[str, int, Path], tuple[Tensor, int, Tensor]] = {}
        self.given: dict[int, tuple[Tensor, Tensor]] = {}
        self.trusting = True

    def give(self, copies: Any, originals: Any) -> None:
        """Note answers of a network that another one will be asked about: its inputs then need no copies."""
        pairs = zip(leaves(copies), leaves(originals), strict=True)
        self.given.update((id(c), (c, o)) for (_, c), (_, o) in pairs if isinstance(c, Tensor))

    def keep(self, role: tuple[str, int], tree: Any, near: Any | None) -> Any:
        """The tree with copies of its tensors; what is equal in ``near`` is the very same object."""

        def visit(node: Any, model: Any, path: Path) -> Any:
            if is_container(node):
                fit = is_container(model) and len(model) == len(node)
                keys = list(node) if isinstance(node, dict) else range(len(node))
                if fit and isinstance(node, dict):
                    fit = isinstance(model, dict) and list(model) == keys
                made = [visit(node[k], model[k] if fit else None, (*path, k)) for k in keys]
                if fit and type(model) is type(node) and all(v is model[k] for k, v in zip(keys, made, strict=True)):
                    return model
                return rebuild(node, made)
            if isinstance(node, Tensor):
                return self._tensor((*role, path), node, model)
            return (
                model if type(node) in (int, float, str, bool) and type(model) is type(node) and model == node else node
            )

        return visit(tree, near, ())

    def _tensor(self, key: tuple[str, int, Path], tensor: Tensor, model: Any) -> Tensor:
        version = -1 if tensor.is_inference() else tensor._version
        old = self.last.get(key)
        if self.trusting and old is not None and old[0] is tensor and old[1] == version and version >= 0:
            return old[2]
        kept = None
        given = self.given.get(id(tensor))
        if given is not None and same_bits(given[1], tensor):
            return given[1]
        for candidate in (model, old[2] if old else None):
            if isinstance(candidate, Tensor) and same_bits(candidate, tensor):
                kept = candidate
                break
        if kept is None:
            kept = tensor.clone()
        self.last[key] = (tensor, version, kept)
        return kept

    def forget_objects(self) -> None:
        """Between runs: drop the pipelines' own tensors, keep the copies."""
        self.last = {key: (kept, -1, kept) for key, (_, _, kept) in self.last.items()}
        self.given.clear()


def compare(entry: Entry) -> None:
    """Set ``changed`` and ``distance`` of an entry by what was asked last."""
    lay = entry.layout
    changed = torch.zeros(lay.units, dtype=torch.bool)
    distance = torch.zeros(lay.units, dtype=torch.float64)
    olds = dict(leaves(entry.tree))
    for path, new in leaves(entry.asked):
        old = olds.get(path)
        if new is old:
            continue
        if (
            not isinstance(new, Tensor)
            or not isinstance(old, Tensor)
            or new.shape != old.shape
            or new.dtype != old.dtype
        ):
            if isinstance(new, Tensor) or isinstance(old, Tensor) or new != old:
                changed[:], distance[:] = True, float("inf")
            continue
        kind, unit = lay.kinds.get(path, "shared"), lay.unit_of(path)
        if kind == "rows":
            a, b = (lay.split(t, lay.spans[path]) for t in (new, old))
            moved = differing(a, b).transpose(0, 1).flatten(1).any(1).cpu()
            if bool(moved.any()):
                distance = torch.where(
                    moved, torch.maximum(distance, _moved(a.transpose(0, 1), b.transpose(0, 1))), distance
                )
        elif same_bits(new, old):
            continue
        else:
            moved = torch.ones_like(changed) if unit is None else torch.arange(lay.units) == unit
            far = _moved(new[None], old[None])
            distance = torch.where(moved, torch.maximum(distance, far), distance)
        changed |= moved
    entry.changed, entry.distance = changed, distance


def _moved(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of rows, over the mean square where that is above 1, float64 on the CPU."""
    if not a.dtype.is_floating_point:
        return torch.full((len(a),), float("inf"), dtype=torch.float64)
    first, second = a.flatten(1).double(), b.flatten(1).double()
    scale = second.square().mean(1).clamp_min(1.0)
    return ((first - second).square().mean(1) / scale).nan_to_num(float("inf")).cpu()
