"""Checks of how a solver behaves: what it touches, keeps, counts and leaves to others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from paraflowkit.core.solver import Sweep
from paraflowkit.solution import Result
from paraflowkit.testing._base import check, fail, mend_first, skip
from paraflowkit.testing._problems import Counting, alone, make, sequential
from paraflowkit.testing._watch import (
    AnySolver,
    Watched,
    exact,
    frozen_copy,
    gap,
    loose,
    run,
    same,
    update_of,
)
from paraflowkit.testing.solver_checks import check_exact

FIELDS = ("n", "valid", "evaluated", "phi", "states", "outputs", "z")
Go = Callable[[], tuple[Any, Any]]


def _both(solver: AnySolver) -> list[AnySolver]:
    """The solver at its own tolerance and, where it takes that, at 0."""
    try:
        return [loose(solver), exact(solver)]
    except SkipTest:
        return [loose(solver)]


def _observe(solver: AnySolver, see: Callable[[Any, Sweep, Go], Any]) -> None:
    """Show every sweep of a stochastic, guided solve to ``see``, at the solver's own tolerance and at 0."""
    problem = make("vp", "ddim", 3, guidance=[1.0, 3.0, 2.0], eta=0.5)
    for one in _both(solver):
        run(Watched(one, see), problem, 5)


@check("solver")
def check_protocol(solver: AnySolver) -> None:
    """What init, select and sweep return has the shapes, dtypes and kinds of the interface."""

    def see(state: Any, sweep: Sweep, go: Go) -> Any:
        chosen = solver.select(state, sweep.n, sweep.valid)
        if chosen.dtype != torch.bool or chosen.shape != sweep.n.shape:
            fail(
                f"select gave {chosen.dtype} {tuple(chosen.shape)}",
                f"it returns bool (samples, width), here {tuple(sweep.n.shape)}",
            )
        found, new = go()
        update = update_of(found)
        rows = tuple(sweep.n.shape)
        wanted = {
            "states": (update.states, sweep.phi.dtype, tuple(sweep.phi.shape)),
            "residual": (update.residual, torch.float64, rows),
            "limit": (update.limit, torch.int64, rows[:1]),
        }
        for name, (value, dtype, shape) in wanted.items():
            if value is None and name != "states":
                continue
            if not isinstance(value, Tensor) or value.dtype != dtype or tuple(value.shape) != shape:
                got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                fail(f"{name} is {got} and not {dtype} {shape}", "see paraflowkit.core.solver.Update")
        if new is not None and not (dataclasses.is_dataclass(new) and type(new).__dataclass_params__.frozen):  # type: ignore[attr-defined]
            fail(
                f"the state is {type(new).__name__}",
                "the state of a solve is None or a frozen dataclass (@dataclass(frozen=True)) that says what it holds",
            )
        return found, new

    _observe(solver, see)


@check("solver")
def check_front(solver: AnySolver) -> None:
    """The new state after the front is one true step from it, bit for bit, so that each sweep makes one more exact."""

    def see(state: Any, sweep: Sweep, go: Go) -> Any:
        front = sweep.phi[:, 0].clone()
        found, new = go()
        made = update_of(found).states[:, 0]
        if not same(made[sweep.valid[:, 0]], front[sweep.valid[:, 0]]):
            node = int(sweep.n[0, 0])
            fail(
                f"the state after the front (node {node}) is not phi[:, 0]",
                "return phi there untouched: even x + (phi - x) rounds",
            )
        return found, new

    _observe(solver, see)


@check("solver")
def check_inputs_unmutated(solver: AnySolver) -> None:
    """Neither the problem's tensors nor those of a sweep are changed in place."""
    problem = make("vp", "ddim", 3, guidance=[1.0, 3.0, 2.0], eta=0.5)
    names = ("x0", "cond", "uncond", "guidance")
    before = {name: frozen_copy(getattr(problem, name)) for name in names}

    def see(state: Any, sweep: Sweep, go: Go) -> Any:
        tensors = {name: getattr(sweep, name) for name in FIELDS if getattr(sweep, name) is not None}
        copies = {name: (value.clone(), value._version) for name, value in tensors.items()}
        found = go()
        for name, (value, version) in copies.items():
            if not same(tensors[name], value) or tensors[name]._version != version:
                fail(f"sweep.{name} was changed in place", "write into a clone: the driver goes on with that tensor")
        return found

    for one in _both(solver):
        run(Watched(one, see), problem, 5)
    for name in names:
        if not same(before[name], getattr(problem, name)):
            fail(f"problem.{name} was changed in place", "write into a clone: the caller still needs it")


def _same_twice(solver: AnySolver) -> None:
    """Raises SkipTest where two solves may differ."""
    if solver.clocked:
        skip("the solver measures and decides by the clock")


@check("solver")
def check_state(solver: AnySolver) -> None:
    """A sweep is a function of its state and its sweep: made twice it gives the same, and changes neither."""
    _same_twice(solver)
    problem = make("vp", "ddim", 3, guidance=[1.0, 3.0, 2.0], eta=0.5)
    for one in _both(solver):
        run(Watched(one, _twice(one)), problem, 5)


def _twice(solver: AnySolver) -> Callable[[Any, Sweep, Go], Any]:
    """Makes every sweep twice and compares."""

    def see(state: Any, sweep: Sweep, go: Go) -> Any:
        before, sweep_before = frozen_copy(state), {name: frozen_copy(getattr(sweep, name)) for name in FIELDS}
        attributes = frozen_copy(vars(solver))
        found, new = go()
        first = frozen_copy(update_of(found)), frozen_copy(new)
        if not same(before, state):
            fail("the state given to sweep was changed in place", "return a new one (dataclasses.replace)")
        for name, value in sweep_before.items():  # changing it is another check's; the second call must see the same
            if value is not None and not same(value, getattr(sweep, name)):
                getattr(sweep, name).copy_(value)
        again, newer = go()
        if not same(first[0], update_of(again)) or not same(first[1], newer):
            fail(
                "the same sweep of the same state gave another result when it was made again",
                "something is kept outside the state: on the object, in the module, or in a random generator",
            )
        if not same(attributes, frozen_copy(vars(solver))):
            fail("sweep changed an attribute of the solver", "keep it in the state that sweep returns")
        return again, newer

    return see


@check("solver")
def check_counts(solver: AnySolver) -> None:
    """The evaluations that are reported are those that the network saw, in rows, in calls and for each sample."""
    _same_twice(solver)
    for guidance in (3.0, 1.0):
        problem = make("vp", "ddim", 3, guidance=guidance)
        network = Counting(problem, keep=True)

        def busy(on: bool, network: Counting = network) -> None:
            network.busy = on

        stats = run(Watched(loose(solver), busy=busy), dataclasses.replace(problem, evaluate=network)).stats
        if network.inside:
            fail(
                f"the solver called the network itself, {network.inside} times: {network.rows} rows were evaluated and "
                f"{stats.rows} reported",
                "evaluations that are hidden from the driver are not counted: mark nodes in select, and the next sweep "
                "has their outputs in sweep.m",
            )
        if (network.rows, network.calls) != (stats.rows, stats.calls):
            fail(
                f"{stats.rows} rows in {stats.calls} calls were reported, the network saw {network.rows} in "
                f"{network.calls}",
                "the network was called behind the driver's back",
            )
        seen = [sum(of == i for of, _, _ in network.seen) for i in range(3)]
        if guidance == 1.0 and stats.evaluations.tolist() != seen:
            fail(f"evaluations are reported as {stats.evaluations.tolist()} and were {seen}", "see Stats.evaluations")


@check("solver")
def check_batch_independent(solver: AnySolver) -> None:
    """A sample has the same result, iterations and evaluations alone as with others, fast and slow, at its side."""
    _same_twice(solver)
    problem = make("vp", "ddim", 3, guidance=[1.0, 7.5, 2.0], eta=0.5)
    for one in _both(solver):
        together = run(one, problem, 5)
        for i in range(3):
            single = run(one, alone(problem, i), 5)
            cause = (
                "samples look at each other: reduce over the window and the state's own dimensions, never over the "
                "first dimension, and let every sample keep its own front"
            )
            off = float(gap(together.x[i : i + 1, None], single.x[:, None]).max())
            if off > 1e-7:
                fail(f"sample {i} comes out {off:.1e} different with others in the batch", cause)
            for name in ("sample_iterations", "evaluations"):
                apart, joint = int(getattr(single.stats, name)[0]), int(getattr(together.stats, name)[i])
                if apart != joint:
                    fail(f"sample {i} takes {apart} {name} alone and {joint} with others", cause)


@check("solver")
def check_nan(solver: AnySolver) -> None:
    """A network that gives NaN for one sample ends that one with NONFINITE and leaves the others alone."""
    _same_twice(solver)
    problem = make("vp", "ddim", 3, guidance=1.0)  # the condition tells the samples apart

    def spoil(out: Tensor, x: Tensor, node: Tensor, cond: Tensor) -> Tensor:
        return torch.where(((cond == 1) & (node >= 5))[:, None], torch.nan, out)

    one = loose(solver)
    clean = run(one, problem)
    found = run(one, dataclasses.replace(problem, evaluate=Counting(problem, spoil=spoil)))
    if found.results[1] is not Result.NONFINITE or not bool(found.x[1].isfinite().all()):
        fail(
            f"the broken sample ended with {found.results[1].name} and the state {found.x[1].tolist()}",
            "NaN reaches states that were exact, or was replaced: leave values that are not finite to the driver",
        )
    others = [0, 2]
    if (
        not all(found.results[i].ok for i in others)
        or float(gap(found.x[others, None], clean.x[others, None]).max()) > 1e-7
    ):
        fail("the other samples changed or ended too", "a sum or a product reaches over the samples: 0 · NaN is NaN")


@check("solver")
def check_nan_sequential(solver: AnySolver) -> None:
    """With ``nonfinite: sequential`` a sample whose guesses alone give NaN is finished one step at a time, exactly."""
    problem = make("vp", "ddim", 3, guidance=1.0)
    wanted = sequential(problem)
    near = 1e-6 * wanted.abs().max()

    def spoil(out: Tensor, x: Tensor, node: Tensor, cond: Tensor) -> Tensor:
        guess = (x - wanted[cond, node]).abs().amax(1) > near
        return torch.where(((cond == 1) & (node >= 5) & guess)[:, None], torch.nan, out)

    spoilt = dataclasses.replace(problem, evaluate=Counting(problem, spoil=spoil))
    found = run(exact(solver), spoilt, nonfinite="sequential")
    if not found.ok or float(gap(found.x[:, None], wanted[:, -1:]).max()) > 1e-9:
        told = ", ".join(result.name for result in found.results)
        fail(
            f"the solve ended with {told}, or not at the sequential result",
            mend_first(solver, (check_exact,))
            + "NaN of an earlier sweep lives on in the solver's state: drop what is not finite, and with a window of "
            "one return phi",
        )


@check("solver")
def check_repeatable(solver: AnySolver) -> None:
    """One object gives the same result again, after other solves, and as a new object would; it never changes."""
    _same_twice(solver)
    first, other = make("vp", "ddim", 3, guidance=2.0, eta=0.5), make("flow", "euler", 1, steps=7)
    one = loose(solver)
    before = frozen_copy(vars(one))
    results = [run(one, first)]
    run(one, other)
    results += [run(one, first), run(type(one)(one.config), first)]
    if not same(before, frozen_copy(vars(one))):
        fail("an attribute of the solver changed while it solved", "keep it in the state that sweep returns")
    for again in results[1:]:
        if not same(again.x, results[0].x) or again.stats.evaluations.tolist() != results[0].stats.evaluations.tolist():
            fail(
                "the same problem, solved again, came out different",
                "something is kept on the object or in the module, or drawn from a random generator",
            )


@check("solver")
def check_chunks(solver: AnySolver) -> None:
    """Cutting the network's calls into chunks changes no bit of the result."""
    _same_twice(solver)
    problem = make("vp", "ddim", 3, guidance=2.0, eta=0.5)

    def row_by_row(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        """Rows on their own, so that the network cannot be what differs."""
        rows = range(len(x))
        return torch.cat(
            [problem.evaluate(x[i : i + 1], node[i : i + 1], None if cond is None else cond[i : i + 1]) for i in rows]
        )

    apart = dataclasses.replace(problem, evaluate=row_by_row)
    one = loose(solver)
    whole = run(one, apart)
    for rows in (2, 7):
        cut = run(one, apart, max_rows=rows)
        if not same(whole.x, cut.x) or cut.stats.iterations != whole.stats.iterations:
            fail(
                f"with at most {rows} rows a call the result differs",
                "the solver depends on how often the network is called, or keeps something from call to call",
            )
