"""CHORDS: cores that start one after another along the trajectory, the slower correcting the faster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from paraflowkit.core.coarse import Past, columns, corrected, jump, stack, step, unstack
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.norms import tolerance_scales
from torch import Tensor

from paraflowkit_chords.config import ChordsConfig
from paraflowkit_chords.starts import automatic_starts


@dataclass(frozen=True)
class Core:
    """A core ahead of the exact one.

    Attributes:
        past: at the node that it evaluates next. begin: the node at which it was born or last corrected.
        born: its past there, and ``output`` what the network gave there, None until it has.
    """

    past: Past
    begin: int
    born: Past
    output: Tensor | None = None


@dataclass(frozen=True)
class Jump:
    """A coarse jump over ``length`` steps, from a past at ``node`` and the output there."""

    past: Past
    output: Tensor
    node: int
    length: int


@dataclass(frozen=True)
class ChordsState:
    """Attributes: starts: nodes of all cores, the exact one first. cores: those after it that were born, in order.
    scales: float64 ``(N,)``, of the tolerance."""

    starts: tuple[int, ...]
    scales: Tensor
    cores: tuple[Core, ...] = ()


class Chords(ParallelSolver[ChordsConfig, ChordsState]):
    """Cores run the sampler from staggered nodes at once; each, passing where the next began, corrects it.

    Core 1 is the sequential sampler. Core k + 1 is born at node I[k+1] by a coarse jump G from I[k], as soon as core k
    was evaluated there, so the cores appear one sweep after another, and each then makes one step Φ a sweep. In the
    sweep in which core k evaluates the node b at which core k + 1 began, core k + 1 is at some node t ahead, and its
    next state is::

        Φ_t(x[t]) + G(b → t+1; x[b] of core k) - G(b → t+1; x[b] of core k + 1)

    where it begins anew. The fastest core finishes after ``N - I[K] + K - 1`` sweeps, the others after it and more
    accurate, core 1, which is exact, last. G is the sampler's own steps with the data prediction of node b held fixed,
    noise included, so it exists for every sampler and is one large step for a deterministic one of order 1.

    The sample of a core is accepted when its mean squared difference to that of the core before is within the tolerance
    (the public code compares L1 norms); at tolerance 0 only that of core 1. All samples share one clock: a sample whose
    window is closed is padding. A multistep sampler's history is carried by each core, jumps and corrections included.

    Raises:
        ValueError: ``starts`` do not fit the steps, or the noise levels of the nodes are unknown.

    Source: algorithm 1 of

    .. code-block:: bibtex

        @inproceedings{han2025chords,
          title     = {{CHORDS}: Diffusion Sampling Accelerator with Multi-core Hierarchical {ODE} Solvers},
          author    = {Han, Jiaqi and Ye, Haotian and Li, Puheng and Xu, Minkai and Zou, James and Ermon, Stefano},
          booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
          year      = {2025}
        }
    """

    config_cls = ChordsConfig
    whole = True

    def init(self, problem: Problem) -> ChordsState:
        if problem.nominal:
            raise ValueError(
                "The noise levels of this scheduler are not known, so the coarse jumps of chords mean nothing: use a "
                "solver without them, such as paradigms."
            )
        config = self.config
        opens = min(config.precondition, problem.steps - 1)
        length = problem.steps - opens
        starts = config.starts or automatic_starts(length, config.cores or 8)
        if starts[-1] >= length:
            raise ValueError(
                f"chords: a core starts at node {starts[-1]} of {length} steps; 'starts' must lie below that."
            )
        if config.finisher is not None and config.finisher > len(starts):
            raise ValueError(
                f"chords: there is no finisher {config.finisher} of {len(starts)} cores: ask for at most that."
            )
        scales = tolerance_scales(config.norm, problem.nodes).to(problem.x0.device)
        return ChordsState(tuple(opens + start for start in starts), scales)

    def select(self, state: ChordsState, n: Tensor, valid: Tensor) -> Tensor:
        front = _front(n, valid)
        nodes = [] if front is None else _nodes(state, front)
        return valid & torch.isin(n, torch.tensor(nodes, dtype=n.dtype, device=n.device))

    def sweep(self, state: ChordsState, sweep: Sweep) -> tuple[Update, ChordsState]:
        new = sweep.after.clone()
        new[:, 0] = sweep.phi[:, 0]
        front = _front(sweep.n, sweep.valid)
        update = Update(new, limit=torch.ones(len(new), dtype=torch.int64, device=new.device))
        if front is None:
            return self._first_counts(update, sweep), state
        nodes = _nodes(state, front)
        newest = len(nodes) - 1
        outputs = [sweep.m[:, node - front] for node in nodes]
        pasts = [Past(sweep.states[:, : sweep.history + 1], sweep.outputs[:, : sweep.history])]
        pasts += [core.past for core in state.cores[:newest]]
        cores = list(state.cores)
        jumps: list[Jump] = []
        passed: list[int] = []  # cores that are where the next one began
        for k, past in enumerate(_steps(sweep, front, pasts, outputs, nodes)):
            core, output = cores[k], cores[k].output
            output = outputs[k + 1] if output is None else output
            cores[k] = replace(core, past=past, output=output)
            if nodes[k] == core.begin:
                length = nodes[k + 1] + 1 - core.begin
                jumps.append(Jump(pasts[k], outputs[k], core.begin, length))
                jumps.append(Jump(core.born, output, core.begin, length))
                passed.append(k)
        birth = newest == front - state.starts[0] and newest + 1 < len(state.starts)
        if birth:
            jumps.append(Jump(pasts[-1], outputs[-1], nodes[-1], state.starts[newest + 1] - nodes[-1]))
        jumped = _jumps(sweep, front, jumps)
        for i, k in enumerate(passed):
            past = corrected(cores[k].past, jumped[2 * i][0], jumped[2 * i + 1][0])
            cores[k] = Core(past, nodes[k + 1] + 1, past)
        for k, node in enumerate(nodes[1:]):
            new[:, node - front] = cores[k].past.x[:, -1]
        if birth:
            past, path = jumped[-1]
            new[:, nodes[-1] - front + 1 : state.starts[newest + 1] - front] = path[:, 1:]
            cores.append(Core(past, state.starts[newest + 1], past))
        if newest and nodes[-1] + 1 == sweep.problem.steps:
            update = self._finish(state, sweep, update, newest)
        return self._first_counts(update, sweep), replace(state, cores=tuple(cores))

    def _finish(self, state: ChordsState, sweep: Sweep, update: Update, index: int) -> Update:
        """What may be accepted now that a core has reached the last node: everything, if the core before it agrees."""
        order = len(state.starts) - index  # 1 for the fastest
        if self.config.tolerance == 0 or (order == 1 and self.config.finisher is None):
            return update
        length = sweep.valid.sum(1)
        if self.config.finisher is not None:
            if order != self.config.finisher:
                return update
            return replace(update, residual=torch.zeros(sweep.n.shape, device=length.device).double(), limit=length)
        last = length[:, None].clamp(min=1) - 1
        rows = torch.arange(len(last), device=last.device)[:, None]
        change = (update.states[rows, last] - sweep.after[rows, last]).flatten(1).double().square().mean(1)
        # The driver divides by the scale of each state; this one number is in the scale of the last.
        return replace(update, residual=change[:, None] * state.scales[sweep.n] / state.scales[-1], limit=length)

    def _first_counts(self, update: Update, sweep: Sweep) -> Update:
        """With the printed stride only what has converged is accepted, and the exact core always has."""
        if self.config.stride == "exact":
            return update
        residual = update.residual
        if residual is None:
            residual = (update.states - sweep.after).flatten(2).double().square().mean(2)
        residual = residual.clone()
        residual[:, 0] = 0
        return replace(update, residual=residual)


def _front(n: Tensor, valid: Tensor) -> int | None:
    """The front that all open windows share; None while steps are taken one by one."""
    opened = valid.sum(1) > 1
    return int(n[opened, 0].max()) if bool(opened.any()) else None


def _nodes(state: ChordsState, front: int) -> list[int]:
    """Where every core stands that is born and has not finished, the exact one first."""
    clock, steps = front - state.starts[0], len(state.scales)
    nodes = [start + clock - k for k, start in enumerate(state.starts[: clock + 1])]
    return [node for node in nodes if node < steps]  # the first ones: nodes grow from core to core


def _steps(sweep: Sweep, front: int, pasts: list[Past], outputs: list[Tensor], nodes: list[int]) -> list[Past]:
    """One step of every core but the exact one."""
    if len(nodes) == 1:
        return []
    if not sweep.history:  # the driver has made the very same steps
        return [Past(sweep.phi[:, node - front, None], pasts[0].m) for node in nodes[1:]]
    count, node = len(sweep.n), torch.tensor(nodes[1:], device=sweep.n.device)
    z = None if sweep.z is None else columns(sweep.z, (node - front)[:, None, None])
    moved = step(sweep.problem, stack(pasts[1:]), torch.cat(outputs[1:]), z, node.repeat_interleave(count))
    return unstack(moved, len(node))


def _jumps(sweep: Sweep, front: int, jumps: list[Jump]) -> list[tuple[Past, Tensor]]:
    """Where each coarse jump leads and the states that it passes; those of one length are made together."""
    found: dict[int, tuple[Past, Tensor]] = {}
    for length in {one.length for one in jumps}:
        which = [i for i, one in enumerate(jumps) if one.length == length]
        node = torch.tensor([jumps[i].node for i in which], device=sweep.n.device)
        over = (node - front)[:, None, None] + torch.arange(length, device=node.device)
        ends, states = jump(
            sweep.problem,
            stack([jumps[i].past for i in which]),
            torch.cat([jumps[i].output for i in which]),
            None if sweep.z is None else columns(sweep.z, over),
            node.repeat_interleave(len(sweep.n)),
            length,
        )
        found |= zip(which, zip(unstack(ends, len(which)), states.chunk(len(which)), strict=True), strict=True)
    return [found[i] for i in range(len(jumps))]
