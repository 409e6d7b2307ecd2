"""Parareal, pipelined: coarse jumps over blocks of steps, corrected by fine chains that run at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from paraflowkit.core.coarse import Past, corrected, jump, step, where
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from torch import Tensor

from paraflowkit_parareal.config import PararealConfig
from paraflowkit_parareal.layout import Layout


@dataclass(frozen=True)
class Chain:
    """The fine steps of one iteration through one block.

    Attributes:
        block: which. node: the one that it evaluates next. past: there.
        jumped: what the coarse solver made of the chain's start, None before that was evaluated.
    """

    block: int
    node: int
    past: Past
    jumped: Past | None = None


@dataclass(frozen=True)
class PararealState:
    """Where a solve stands.

    Attributes:
        layout: of the blocks. clock: sweeps since the window opened.
        chains: in flight. done: by block, the last chain that reached its end. latest: by block, the coarse jump from
            its present start.
        change: float64 ``(samples, blocks + 1)``, mean squared change of each block's start, the last node's included,
            when it was last made; of no meaning until ``current``.
        current: bool ``(samples, blocks + 1)``, made by a fine chain and from the present start of the block before.
    """

    layout: Layout
    clock: int
    chains: tuple[Chain, ...]
    done: tuple[Chain | None, ...]
    latest: tuple[Past | None, ...]
    change: Tensor
    current: Tensor


class Parareal(ParallelSolver[PararealConfig, PararealState]):
    """Parareal iterations over blocks of steps, each coarse jump and fine chain as soon as its start is there.

    With F_i the sampler's own steps through block i and G_i one coarse jump over it, the states between blocks are::

        X_{i+1} of iteration k + 1 = F_i(X_i of k) + G_i(X_i of k + 1) - G_i(X_i of k)

    where G_i is the sampler's steps with the data prediction of the block's start held fixed, noise included: it exists
    for every sampler and is one large step for a deterministic one of order 1. The evaluation at the block's start
    serves G_i and the first step of F_i. Several iterations are in flight; iteration k has the last state after
    ``edges[k] + blocks - k`` sweeps (:class:`~paraflowkit_parareal.layout.Layout` says when each is where) and the
    first k blocks are exact then. The front is the chain of the exact start, so N sweeps always suffice.

    At tolerances above 0 a block's end is accepted, and everything before it, when it was made from a start that
    changed by no more than the tolerance: the corrected end then is the fine solution of an accepted start, which is
    "one more than has converged" in units of blocks. (The paper stops by the change of the last state alone.) At
    tolerance 0 the front moves by one. All samples share the iterations' clock, and the front of each may be ahead of
    it. A multistep sampler's history belongs to the states X_i, jumps and corrections included.

    Raises:
        ValueError: the noise levels of the nodes are unknown.

    Source: Lions, Maday and Turinici 2001; for diffusion models, with the pipeline, Selvam, Merchant and Ermon 2024.

    .. code-block:: bibtex

        @article{lions2001parareal,
          title   = {R{\\'e}solution d'{EDP} par un sch{\\'e}ma en temps « parar{\\'e}el »},
          author  = {Lions, Jacques-Louis and Maday, Yvon and Turinici, Gabriel},
          journal = {Comptes Rendus de l'Acad{\\'e}mie des Sciences, S{\\'e}rie I},
          volume  = {332},
          number  = {7},
          pages   = {661--668},
          year    = {2001}
        }

        @inproceedings{selvam2024srds,
          title     = {Self-Refining Diffusion Samplers: Enabling Parallelization via Parareal Iterations},
          author    = {Selvam, Nikil Roashan and Merchant, Amil and Ermon, Stefano},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2024}
        }
    """

    config_cls = PararealConfig
    whole = True

    def init(self, problem: Problem) -> PararealState:
        if problem.nominal:
            raise ValueError(
                "The noise levels of this scheduler are not known, so the coarse jumps of parareal mean nothing: use a "
                "solver without them, such as paradigms."
            )
        opens = min(self.config.precondition, problem.steps - 1)
        layout = Layout.cut(opens, problem.steps, self.config.blocks)
        change = problem.x0.new_zeros(len(problem.x0), layout.blocks + 1, dtype=torch.float64)
        none = (None,) * layout.blocks
        return PararealState(layout, 0, (), none, none, change, torch.zeros_like(change, dtype=torch.bool))

    def select(self, state: PararealState, n: Tensor, valid: Tensor) -> Tensor:
        nodes = torch.tensor([chain.node for chain in state.chains], dtype=n.dtype, device=n.device)
        return valid & torch.isin(n, nodes)

    def sweep(self, state: PararealState, sweep: Sweep) -> tuple[Update, PararealState]:
        if not bool((sweep.valid.sum(1) > 1).any()):  # steps are taken one by one before the window opens
            return self._accept(state, sweep, sweep.phi), state
        state, new = self._march(state, sweep)
        return self._accept(state, sweep, new), replace(state, clock=state.clock + 1)

    def _march(self, state: PararealState, sweep: Sweep) -> tuple[PararealState, Tensor]:
        """One step of every chain, and the block starts that are due."""
        layout, lo = state.layout, sweep.n[:, 0]
        problem, history = sweep.problem, sweep.history
        new = sweep.after.clone()
        front = Past(sweep.states[:, : history + 1], sweep.outputs[:, :history])
        chains = state.chains
        if state.clock == 0:
            chains = (Chain(0, layout.edges[0], front),)
        done, latest = list(state.done), list(state.latest)
        going: list[Chain] = []
        for chain in chains:
            output = _at(sweep.m, chain.node - lo)
            noise = _over(sweep.z, chain.node - lo, layout.length(chain.block))
            jumped = chain.jumped
            if jumped is None:
                jumped, _ = jump(problem, chain.past, output, noise, chain.node, layout.length(chain.block))
                before = latest[chain.block]
                # A sample whose front has gone past this start keeps the jump that the front made.
                latest[chain.block] = jumped if before is None else where(lo > chain.node, before, jumped)
            past = step(problem, chain.past, output, None if noise is None else noise[:, :1], chain.node)
            moved = Chain(chain.block, chain.node + 1, past, jumped)
            if moved.node == layout.edges[chain.block + 1]:
                done[chain.block] = moved
            else:
                new = _write(new, past.x[:, -1], chain.node - lo)
                going.append(moved)
        starting = {chain.node for chain in chains if chain.jumped is None}
        for block in range(1, layout.blocks):
            arrived = (lo == layout.edges[block]) & sweep.valid[:, 0]
            if layout.edges[block] not in starting and bool(arrived.any()):  # a front ahead of all iterations
                noise = _over(sweep.z, torch.zeros_like(lo), layout.length(block))
                own, _ = jump(problem, front, sweep.m[:, 0], noise, layout.edges[block], layout.length(block))
                before = latest[block]
                latest[block] = own if before is None else where(arrived, own, before)
        made: list[tuple[int, int]] = layout.made_by(state.clock)
        for iteration, index in made:
            ahead, chain = latest[index - 1], done[index - 1]
            assert ahead is not None  # the start of the block before was evaluated by now
            if iteration:
                assert chain is not None  # and its chain has come through
                assert chain.jumped is not None
                ahead = corrected(chain.past, ahead, chain.jumped)
            new = _write(new, ahead.x[:, -1], layout.edges[index] - 1 - lo)
            if index < layout.blocks:
                going.append(Chain(index, layout.edges[index], ahead))
        new[:, 0] = sweep.phi[:, 0]
        change, current = self._measure(state, sweep, new, made)
        return replace(
            state, chains=tuple(going), done=tuple(done), latest=tuple(latest), change=change, current=current
        ), new

    def _measure(
        self, state: PararealState, sweep: Sweep, new: Tensor, made: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """The new ``change`` and ``current``, after a sweep that made these block starts."""
        edges = torch.tensor(state.layout.edges, device=new.device)
        column = edges - 1 - sweep.n[:, :1]
        inside = (column >= 0) & (column < new.shape[1])
        rows = torch.arange(len(new), device=new.device)[:, None]
        at = column.clamp(0, new.shape[1] - 1)
        difference = (new[rows, at] - sweep.after[rows, at]).flatten(2).double().square().mean(2)
        fresh = torch.zeros_like(inside)
        for _, index in made:
            fresh[:, index] = True
        refined = torch.zeros_like(inside)
        for iteration, index in made:
            refined[:, index] |= iteration > 0
        rewritten = inside & (fresh | (column == 0))
        change = torch.where(rewritten, difference, state.change)
        current = torch.where(rewritten, refined | (column == 0), state.current)
        stale = torch.cat([torch.zeros_like(rewritten[:, :1]), rewritten[:, :-1]], 1)
        return change, current & ~stale

    def _accept(self, state: PararealState, sweep: Sweep, new: Tensor) -> Update:
        """The update: as many blocks as follow from starts that have settled."""
        one = torch.ones(len(new), dtype=torch.int64, device=new.device)
        edges = torch.tensor(state.layout.edges, device=new.device)
        after = sweep.n + 1
        block = torch.searchsorted(edges, after.contiguous(), right=True) - 1
        residual = state.change.gather(1, block.clamp(min=0))
        if self.config.stride == "printed":  # nothing is accepted but what has converged, and the front always has
            residual[:, 0] = 0
        if self.config.tolerance == 0 or not state.chains:
            return Update(new, residual, one)
        ahead = edges > sweep.n[:, :1]
        reached = (state.current | ~ahead).long().cumprod(1).bool()
        last = torch.where(reached & ahead, edges, sweep.n[:, :1]).amax(1)
        return Update(new, residual, (last - sweep.n[:, 0]).clamp(min=1))


def _at(buffer: Tensor, column: Tensor) -> Tensor:
    """One column of each sample; a sample for which it lies outside gets some other, which nothing of it depends on."""
    rows = torch.arange(len(buffer), device=buffer.device)
    return buffer[rows, column.clamp(0, buffer.shape[1] - 1)]


def _over(buffer: Tensor | None, column: Tensor, length: int) -> Tensor | None:
    """Columns ``column`` … ``column + length - 1`` of each sample, with the same proviso."""
    if buffer is None:
        return None
    rows = torch.arange(len(buffer), device=buffer.device)[:, None]
    columns = column[:, None] + torch.arange(length, device=buffer.device)
    return buffer[rows, columns.clamp(0, buffer.shape[1] - 1)]


def _write(states: Tensor, value: Tensor, column: Tensor) -> Tensor:
    """The states with one column of each sample replaced where it lies inside."""
    inside = (column >= 0) & (column < states.shape[1])
    rows = inside.nonzero()[:, 0]
    return states.index_put((rows, column[rows]), value[rows])
