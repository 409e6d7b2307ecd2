"""Parareal, pipelined: coarse jumps over blocks of steps, corrected by fine chains that run at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from paraflowkit.core.coarse import Past, columns, corrected, jump, stack, step, unstack, where
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from torch import Tensor

from paraflowkit_parareal.config import PararealConfig
from paraflowkit_parareal.layout import Layout

#: A truth value for every block start, the last node included, of each sample.
Marks = tuple[tuple[bool, ...], ...]


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
        layout: of the blocks. block: int64 ``(N,)``, the block, or the last node's place after them,
            in which each step ends.
        clock: sweeps since the window opened.
        chains: in flight. nodes: int64, where each stands.
        done: by block, the last chain that reached its end.
        latest: by block, the coarse jump from its present start.
        change: float64 ``(samples, blocks + 1)``, mean squared change of each block's start, the last node's included,
            when it was last made; of no meaning until ``current``.
        current: by sample and block start, whether it was made by a fine chain and from the present start before it.
    """

    layout: Layout
    block: Tensor
    clock: int
    chains: tuple[Chain, ...]
    nodes: Tensor
    done: tuple[Chain | None, ...]
    latest: tuple[Past | None, ...]
    change: Tensor
    current: Marks


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
        current = ((False,) * change.shape[1],) * len(change)
        edges = torch.tensor(layout.edges, device=change.device)
        after = torch.arange(1, problem.steps + 1, device=change.device)
        block = (torch.searchsorted(edges, after, right=True) - 1).clamp(min=0)
        none = (None,) * layout.blocks
        return PararealState(layout, block, 0, (), edges[:1], none, none, change, current)

    def select(self, state: PararealState, n: Tensor, valid: Tensor) -> Tensor:
        return valid & torch.isin(n, state.nodes)

    def sweep(self, state: PararealState, sweep: Sweep) -> tuple[Update, PararealState]:
        if not bool(sweep.valid[:, 1:].any()):  # steps are taken one by one before the window opens
            return self._accept(state, sweep, sweep.phi), state
        state, new = self._march(state, sweep)
        return self._accept(state, sweep, new), state

    def _march(self, state: PararealState, sweep: Sweep) -> tuple[PararealState, Tensor]:
        """One step of every chain, and the block starts that are due."""
        layout, lo, problem = state.layout, sweep.n[:, 0], sweep.problem
        done, latest = list(state.done), list(state.latest)
        front = Past(sweep.states[:, : sweep.history + 1], sweep.outputs[:, : sweep.history])
        chains = (Chain(0, layout.edges[0], front),) if state.clock == 0 else state.chains
        column = (state.nodes[:, None] - lo)[:, :, None]
        outputs = columns(sweep.m, column)[:, 0]
        each = outputs.chunk(len(chains))
        # A jump's past, the output there and the column of its node in the window of each sample.
        begun = {
            chain.block: (chain.past, each[i], column[i, :, 0]) for i, chain in enumerate(chains) if not chain.jumped
        }
        # A front may be ahead of all iterations.
        fronts = {n for n, open_ in zip(lo.tolist(), sweep.valid[:, 0].tolist(), strict=True) if open_}
        passed = [i for i in range(1, layout.blocks) if layout.edges[i] in fronts and i not in begun]
        jumped = _jumps(sweep, layout, begun | {i: (front, sweep.m[:, 0], torch.zeros_like(lo)) for i in passed})
        for block, own in jumped.items():
            before, start = latest[block], layout.edges[block]
            if before is not None and block in begun and max(fronts) > start:
                own = where(lo > start, before, own)  # a front that has gone past this start made the better jump
            elif before is not None and block not in begun:
                own = where((lo == start) & sweep.valid[:, 0], own, before)
            latest[block] = own
        if sweep.history:
            stacked, rows = stack([chain.past for chain in chains]), state.nodes.repeat_interleave(len(lo))
            noise = None if sweep.z is None else columns(sweep.z, column)
            moved = unstack(step(problem, stacked, outputs, noise, rows), len(chains))
        else:  # the driver has made the very same steps
            each = columns(sweep.phi, column).chunk(len(chains))
            moved = [Past(x, chain.past.m) for x, chain in zip(each, chains, strict=True)]
        going: list[Chain] = []
        for chain, past in zip(chains, moved, strict=True):
            one = Chain(chain.block, chain.node + 1, past, chain.jumped or jumped[chain.block])
            if one.node == layout.edges[chain.block + 1]:
                done[chain.block] = one
            else:
                going.append(one)
        made: list[tuple[int, int]] = layout.made_by(state.clock)
        for iteration, index in made:
            past, chain = latest[index - 1], done[index - 1]
            assert past is not None  # the start of the block before was evaluated by now
            if iteration:
                assert chain is not None  # and its chain has come through
                assert chain.jumped is not None
                past = corrected(chain.past, past, chain.jumped)
            going.append(Chain(index, layout.edges[index], past))
        nodes = torch.tensor([chain.node for chain in going], dtype=torch.int64, device=lo.device)
        new = _write(sweep.after, going, nodes - 1 - lo[:, None])
        new[:, 0] = sweep.phi[:, 0]
        change, current = self._measure(state, sweep, new, made)
        unfinished = sum(chain.node < problem.steps for chain in going)  # all but perhaps the last
        return replace(
            state,
            clock=state.clock + 1,
            chains=tuple(going[:unfinished]),
            nodes=nodes[:unfinished],
            done=tuple(done),
            latest=tuple(latest),
            change=change,
            current=current,
        ), new

    def _measure(
        self, state: PararealState, sweep: Sweep, new: Tensor, made: list[tuple[int, int]]
    ) -> tuple[Tensor, Marks]:
        """The new ``change`` and ``current``, after a sweep that made these block starts."""
        edges, iterations = state.layout.edges, {index: iteration for iteration, index in made}
        current = [list(marks) for marks in state.current]
        rewritten: list[tuple[int, int, int]] = []  # sample, block start and its column among the new states
        for sample, lo in enumerate(sweep.n[:, 0].tolist()):
            for index, edge in enumerate(edges):
                exact = edge == lo + 1
                if exact or (edge > lo and index in iterations):
                    rewritten.append((sample, index, edge - 1 - lo))
                    current[sample][index] = exact or iterations[index] > 0
        for sample, index, _ in rewritten:
            if index < state.layout.blocks:
                current[sample][index + 1] = False  # it followed from what was here before
        if not rewritten:
            return state.change, state.current
        samples, starts, column = torch.tensor(rewritten, device=new.device).unbind(1)
        difference = (new[samples, column] - sweep.after[samples, column]).flatten(1).double().square().mean(1)
        return state.change.index_put((samples, starts), difference), tuple(tuple(marks) for marks in current)

    def _accept(self, state: PararealState, sweep: Sweep, new: Tensor) -> Update:
        """The update: as many blocks as follow from starts that have settled."""
        residual = state.change.gather(1, state.block[sweep.n])
        if self.config.stride == "printed":  # nothing is accepted but what has converged, and the front always has
            residual[:, 0] = 0
        limit = [1] * len(new)
        if self.config.tolerance > 0 and state.chains:
            for sample, lo in enumerate(sweep.n[:, 0].tolist()):
                for edge, current in zip(state.layout.edges, state.current[sample], strict=True):
                    if edge > lo and not current:
                        break
                    limit[sample] = max(limit[sample], edge - lo)
        return Update(new, residual, torch.tensor(limit, device=new.device))


def _jumps(sweep: Sweep, layout: Layout, starts: dict[int, tuple[Past, Tensor, Tensor]]) -> dict[int, Past]:
    """Where the coarse jumps over these blocks lead; those of one length are made together."""
    found: dict[int, Past] = {}
    for length in {layout.length(block) for block in starts}:
        blocks = [block for block in starts if layout.length(block) == length]
        pasts, outputs, column = zip(*(starts[block] for block in blocks), strict=True)
        noise = None
        if sweep.z is not None:
            noise = columns(sweep.z, torch.stack(column)[:, :, None] + torch.arange(length, device=sweep.n.device))
        nodes = torch.tensor(
            [layout.edges[block] for block in blocks for _ in range(len(sweep.n))], device=sweep.n.device
        )
        made, _ = jump(sweep.problem, stack(pasts), torch.cat(outputs), noise, nodes, length)
        found |= zip(blocks, unstack(made, len(blocks)), strict=True)
    return found


def _write(states: Tensor, chains: list[Chain], column: Tensor) -> Tensor:
    """The states with those of the chains in their columns, ``(samples, chains)``, where these are not negative."""
    if not chains:
        return states.clone()
    new = torch.cat([states, states[:, -1:]], 1)  # the column at the end takes what lies behind a front
    samples = torch.arange(len(states), device=states.device)[:, None]
    new[samples, column.clamp(min=-1)] = torch.stack([chain.past.x[:, -1] for chain in chains], 1)
    return new[:, :-1]
