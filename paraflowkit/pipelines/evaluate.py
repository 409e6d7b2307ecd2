"""Many calls of a pipeline's networks in few: the one place where the rows of a sweep are evaluated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paraflowkit.pipelines.record import Callee, Entry
from paraflowkit.pipelines.rows import (
    Layout,
    Path,
    Unbatchable,
    children,
    clone,
    gather,
    is_container,
    layout,
    leaves,
    put,
    rebuild,
    scatter,
    shared_by_name,
)
from paraflowkit.pipelines.state import Fingerprint

#: Largest relative RMS difference between a call alone and in a batch that rounding explains.
CLOSE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class Wanted:
    """A call to make for some of its samples; ``check`` is one that was really made, to be compared."""

    entry: Entry
    units: list[int]
    check: bool = False


@dataclass
class Evaluator:
    """Makes calls of networks in batches and checks that a batch gives what single calls gave.

    Attributes:
        max_rows: rows of one call at most, but for calls of a single step with more. pad: samples of a batch of a
            compiled network, or 0: one shape spares it compiling again. calls, rows, seconds: of the networks so far.
        verified: kinds of calls that were checked. watched: networks that kept no state when they were called alone.
        shared: by network, paths of what looks as if it carried rows and was found not to.
    """

    max_rows: int | None = None
    pad: int = 0
    calls: int = 0
    rows: int = 0
    seconds: float = 0.0
    verified: set[Any] = field(default_factory=set[Any])
    watched: set[str] = field(default_factory=set[str])
    shared: dict[str, set[Path]] = field(default_factory=dict[str, set[Path]])

    def alone(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call as the pipeline made it."""
        began = time.perf_counter()
        out = callee.real(*args, **kwargs)
        _wait(out)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        return out

    def __call__(self, wanted: Sequence[Wanted], known: Sequence[Entry]) -> None:
        """Evaluate calls at what was asked last, and update their entries.

        Args:
            wanted: calls and samples. known: calls that were really made; those like the wanted ones are evaluated
                again with them, once, and must come out the same.

        Raises:
            Unbatchable: a network gives other outputs in a batch, or refuses one; the message says which and why.
        """
        groups: dict[Any, list[Wanted]] = {}
        for each in wanted:
            groups.setdefault(_key(each.entry, each.entry.asked), []).append(each)
        if len(groups) == len(wanted) > 2 and len({str(w.entry.callee) for w in wanted}) == 1:
            raise Unbatchable(f"each call of {wanted[0].entry.callee} has an argument of its own that carries no rows")
        for key, parts in groups.items():
            alone = len(parts) == 1 and len(parts[0].units) == parts[0].entry.layout.units
            if alone:
                self._one(parts[0].entry)
                continue
            kind = _key(parts[0].entry, parts[0].entry.asked, shapes_only=True)
            if kind in self.verified:
                self._batches(parts)
                continue
            again = [e for e in known if _key(e, e.tree) == key]
            again = [
                e for e in again if e.node == again[-1].node
            ]  # all calls of one step: hooks may differ between them
            if not again:  # calls of this kind are new: the first of them is made alone, to be checked against
                self._one(parts[0].entry)
                again = [parts[0].entry]
                parts = parts[1:]
            checks = [Wanted(e, list(range(e.layout.units)), True) for e in again]
            # Not the first ones: a network may do something of its own with the first row.
            self._checked([*parts[:1], *checks, *parts[1:]])
            self.verified.add(kind)

    def _one(self, entry: Entry) -> None:
        """Make a call alone, for all of its samples."""
        first = str(entry.callee) not in self.watched
        before = Fingerprint(entry.callee.module) if first else None
        args, kwargs = clone(entry.asked)
        entry.out = clone(self.alone(entry.callee, args, kwargs))
        if before is not None:
            self._unchanged(before, entry.callee)
            self.watched.add(str(entry.callee))
        self.rows += entry.layout.rows
        _done(entry, list(range(entry.layout.units)))

    def _checked(self, parts: list[Wanted]) -> None:
        """The first batch of its kind: canaries in it, and a hidden state looked for."""
        callee = parts[0].entry.callee
        before, problem = Fingerprint(callee.module), ""
        for doubts in range(3):
            if doubts and not self._share(parts, by_name=doubts == 1):
                continue
            try:
                problem = self._batches(parts)
            except Unbatchable as error:
                problem = str(error)
            except torch.OutOfMemoryError:
                raise Unbatchable(f"a batch of {callee} does not fit the memory: give max_rows") from None
            except Exception as error:  # a network may refuse a batch in any way
                problem = f"it refuses a batch ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"
            if not problem:
                break
        if problem:
            raise Unbatchable(f"calls of {callee} cannot be made in one batch: {problem}")
        self._unchanged(before, callee)

    def _unchanged(self, before: Fingerprint, callee: Callee) -> None:
        state = before.changed(callee.module)
        if state is not None:
            raise Unbatchable(f"{callee} keeps a state of its own between calls ({state})")

    def _share(self, parts: list[Wanted], by_name: bool) -> bool:
        """Take what is the same in all calls, and may or may not carry rows, as shared; whether there is any.

        Only tensors whose names say so at first, then all of a single row, whose shape says nothing.
        """
        lay = parts[0].entry.layout
        trees = [dict(leaves(w.entry.tree if w.check else w.entry.asked)) for w in parts]
        doubtful = {
            path
            for path, kind in lay.kinds.items()
            if kind in ("rows", "value")
            and (shared_by_name(path) or (not by_name and (lay.spans[path] > 1 or lay.rows == 1)))
            and len({id(t[path]) for t in trees}) == 1
        }
        plain = {path for path, kind in lay.kinds.items() if kind == "item" and len({str(t[path]) for t in trees}) == 1}
        doubtful |= {p for p in lay.lists if all(path in plain for path in lay.kinds if path[: len(p)] == p)}
        if not doubtful:
            return False
        paths = self.shared.setdefault(str(parts[0].entry.callee), set())
        paths |= doubtful
        for part in parts:
            part.entry.layout = layout(part.entry.tree, lay.units, paths)
        return True

    def _batches(self, parts: Sequence[Wanted]) -> str:
        """Evaluate in chunks of ``max_rows``; what is wrong with the canaries, or nothing."""
        lay = parts[0].entry.layout
        most = max(1, self.max_rows // lay.branches) if self.max_rows else None
        chunks: list[list[Wanted]] = [[]]
        filled = 0
        for part in parts:
            if most and filled and filled + len(part.units) > most:
                chunks.append([])
                filled = 0
            chunks[-1].append(part)
            filled += len(part.units)
        for chunk in chunks:
            problem = self._batch(lay, chunk, most)
            if problem:
                return problem
        return ""

    def _batch(self, lay: Layout, parts: list[Wanted], most: int | None) -> str:
        entry = parts[0].entry
        calls = [(w.entry.tree if w.check else w.entry.asked, w.units) for w in parts]
        counts = [len(w.units) for w in parts]
        total = sum(counts)
        fill = max(0, min(self.pad, most or self.pad) - total) if _compiled(entry.callee.module) else 0
        if fill:
            calls.append((calls[-1][0], [calls[-1][1][-1]] * fill))
        args, kwargs = gather(lay, calls)
        began = time.perf_counter()
        out = entry.callee.real(*args, **kwargs)
        _wait(out)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        self.rows += lay.branches * (total + fill)
        found = scatter(lay, out, entry.out, [*counts, *([fill] if fill else [])])
        for part, new in zip(parts, found, strict=False):
            made = put(lay, part.entry.out, new, part.units)
            if part.check:
                off = difference(made, part.entry.out)
                if off > 1:
                    return f"its outputs differ from those of single calls, {off:.2g} times what rounding explains"
                continue
            part.entry.out = made
            _done(part.entry, part.units)
        return ""


def difference(made: Any, known: Any) -> float:
    """Largest relative RMS difference of the tensors of two outputs, over what rounding explains."""
    worst = 0.0
    for (_, a), (_, b) in zip(leaves(made), leaves(known), strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype.is_floating_point:
            scale = b.double().square().mean().sqrt()
            off = (a.double() - b.double()).square().mean().sqrt() / scale.clamp_min(1e-12)
            worst = max(worst, float(off.nan_to_num(float("inf"))) / CLOSE.get(a.dtype, 6e-2))
    return worst


def _done(entry: Entry, units: list[int]) -> None:
    """The entry's output is that of what was asked, for these samples."""
    if len(units) == entry.layout.units:
        entry.tree = entry.asked
    else:
        entry.tree = _merged(entry.layout, entry.tree, entry.asked, units)
    entry.settled = False
    entry.fresh[units] = True
    entry.changed[units] = False
    entry.distance[units] = 0.0


def _merged(lay: Layout, old: Any, new: Any, units: list[int]) -> Any:
    """The inputs ``old`` with the rows of these samples taken from ``new``."""

    def visit(a: Any, b: Any, path: tuple[Any, ...]) -> Any:
        if is_container(a):
            keys = [k for k, _ in children(a)]
            return rebuild(a, [visit(a[k], b[k], (*path, k)) for k in keys])
        unit = lay.unit_of(path)
        if unit is not None:
            return b if unit in units else a
        if a is b or lay.kinds[path] != "rows":
            return b
        made = a.clone()
        span = lay.spans[path]
        made.view(lay.branches, lay.units, span, *a.shape[1:])[:, units] = lay.split(b, span)[:, units]
        return made

    return visit(old, new, ())


def _key(entry: Entry, tree: Any, shapes_only: bool = False) -> tuple[Any, ...]:
    """What calls must have in common to be made as one; or to be of the same kind, whatever tensors they share."""
    parts: list[Any] = [str(entry.callee), entry.layout.rows, entry.layout.units]
    for path, leaf in leaves(tree):
        kind = entry.layout.kinds.get(path, "shared")
        if isinstance(leaf, Tensor):
            same = kind == "shared" and not shapes_only
            parts.append((path, kind, id(leaf) if same else (tuple(leaf.shape), leaf.dtype)))
        elif kind == "item":
            parts.append((path, type(leaf)))
        else:
            parts.append((path, None if kind == "value" else leaf if _hashable(leaf) else id(leaf)))
    return tuple(parts)


def _hashable(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, bytes, type(None), torch.dtype, torch.device))


def _compiled(module: Any) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _wait(out: Any) -> None:
    for _, leaf in leaves(out):
        if isinstance(leaf, Tensor) and leaf.is_cuda:
            torch.cuda.synchronize(leaf.device)
            return
