"""Components that are wrong in one way each, for the tests of the conformance kit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from paraflowkit.core.config import ComponentConfig, SolverConfig
from paraflowkit.core.march import picard
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.core.stepper import BaseStepper, StepRule
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.grid import TimeGrid
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.table import StepTable

Solver = ParallelSolver[SolverConfig, Any]


class Right(Solver):
    """Picard iteration, from which every wrong solver departs in one place."""

    def init(self, problem: Problem) -> Any:
        return None

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        return picard(sweep), state


def change(new: Tensor, sweep: Sweep) -> Tensor:
    """Mean squared change of each state."""
    return (new - sweep.after).flatten(2).double().square().mean(2)


class ResetHistory(Right):
    """Starts every window anew, as two public codes do: the nodes behind the front count as the front itself."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        h, states, outputs = sweep.history, sweep.states.clone(), sweep.outputs.clone()
        states[:, :h], outputs[:, :h] = states[:, h : h + 1], outputs[:, h : h + 1]
        phi = sweep.problem.rule.apply(sweep.n, states[:, :-1], outputs, sweep.z)
        mask = sweep.evaluated.view(*sweep.evaluated.shape, *(1,) * (phi.ndim - 2))
        return picard(dataclasses.replace(sweep, phi=torch.where(mask, phi, sweep.after))), state


class ForgottenNoise(Right):
    """Takes the steps itself and leaves the noise out."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        phi = sweep.problem.rule.apply(sweep.n, sweep.states[:, :-1], sweep.outputs, None)
        mask = sweep.evaluated.view(*sweep.evaluated.shape, *(1,) * (phi.ndim - 2))
        return picard(dataclasses.replace(sweep, phi=torch.where(mask, phi, sweep.after))), state


class RedrawnNoise(Right):
    """Takes the steps itself with fresh noise in every sweep."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        z = None if sweep.z is None else torch.randn_like(sweep.z)
        phi = sweep.problem.rule.apply(sweep.n, sweep.states[:, :-1], sweep.outputs, z)
        mask = sweep.evaluated.view(*sweep.evaluated.shape, *(1,) * (phi.ndim - 2))
        return picard(dataclasses.replace(sweep, phi=torch.where(mask, phi, sweep.after))), state


class OffByOneStride(Right):
    """Gives the residual of each state to the one after it, so that one state too many is accepted."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        residual = change(new, sweep).roll(1, 1)
        residual[:, 0] = 0
        return Update(new, residual=residual), state


class AcceptsUnevaluated(Right):
    """Evaluates the front alone, shifts the other states with it, and accepts them all."""

    def select(self, state: Any, n: Tensor, valid: Tensor) -> Tensor:
        return valid & (torch.arange(n.shape[1]) < 1)

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        residual = torch.where(sweep.evaluated, change(new, sweep), 0.0)
        residual[:, 0] = 0  # the state after the front is exact
        return Update(new, residual=residual, limit=sweep.valid.sum(1)), state


class MutatesSweep(Right):
    """Adds the corrections into the driver's own tensor."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        return sweep.phi.copy_(new), state


class MutatesProblem(Right):
    """Shifts the start that the caller holds."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        sweep.problem.x0.add_(1.0)
        return picard(sweep), state


class LeaksOverBatch(Right):
    """Pulls guesses towards the mean of the batch; the state after the front is left alone."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        new[:, 1:] = 0.9 * new[:, 1:] + 0.1 * new[:, 1:].mean(0, keepdim=True)
        return new, state


class WaitsForSlowest(Right):
    """All samples advance as far as the slowest."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        return Update(new, residual=change(new, sweep).amax(0, keepdim=True).expand(len(new), -1).contiguous()), state


class LiesAboutEvaluations(Right):
    """Calls the network itself, for one more correction of the second state."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        if new.shape[1] > 1:
            sweep.problem.output(new[:, 0], sweep.n[:, 1], torch.arange(len(new)))
        return new, state


class RoundsFront(Right):
    """Computes the front in a form that is right on paper."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        new[:, 0] = sweep.x[:, 0] + (sweep.phi[:, 0] - sweep.x[:, 0])
        return new, state


class KeepsOnObject(Right):
    """Remembers on itself how many sweeps it has made, and damps the first ones."""

    made = 0

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        self.made += 1
        new = picard(sweep)
        new[:, 1:] = new[:, 1:] + (sweep.after[:, 1:] - new[:, 1:]) / self.made
        return new, state


@dataclass(frozen=True)
class Memory:
    """A tensor that a solver carries from sweep to sweep."""

    value: Tensor


class MutatesState(Right):
    """Counts sweeps in the tensor of the state that it was given."""

    def init(self, problem: Problem) -> Any:
        return Memory(problem.x0.new_zeros(()))

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        state.value.add_(1)
        return picard(sweep), state


class StateIsADictionary(Right):
    """Returns a state that says nothing about itself."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        return picard(sweep), {"sweeps": 1}


class ResidualOfTheBatch(Right):
    """Gives one residual for each sample."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        return Update(new, residual=change(new, sweep).mean(1, keepdim=True)), state


class WidensStates(Right):
    """Computes in float64 and does not come back."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        return picard(sweep).double(), state


class ReadsCoefficients(Right):
    """Looks at the coefficients and does not say that it needs them."""

    def init(self, problem: Problem) -> Any:
        assert problem.rule.a is not None  # type: ignore[attr-defined]
        return None


class IgnoresTolerance(Right):
    """Reports residuals that are far too small."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        return Update(new, residual=1e-12 * change(new, sweep)), state


class DividesBySteps(Right):
    """Weights corrections by differences of times, which are 0 between the two nodes of a step."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        step = sweep.problem.nodes.t.diff()[sweep.n]
        weight = (step / step).to(sweep.phi.dtype)[..., None]
        new = sweep.phi + weight * (picard(sweep) - sweep.phi)
        return new, state


class GuidesTwice(Right):
    """Guides the output that is guided already."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        scale = sweep.problem.guidance
        if scale is None or bool((scale == 1).all()):
            return picard(sweep), state
        outputs = sweep.outputs * (1 + 0.01 * (scale.to(sweep.outputs.dtype) - 1))[:, None, None]
        phi = sweep.problem.rule.apply(sweep.n, sweep.states[:, :-1], outputs, sweep.z)
        mask = sweep.evaluated[..., None]
        return picard(dataclasses.replace(sweep, phi=torch.where(mask, phi, sweep.after))), state


class MindsTheWindow(Right):
    """Damps the front's step in windows of more than four."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        return (new if sweep.n.shape[1] <= 4 else sweep.after + 0.99 * (new - sweep.after)), state


class SpreadsNaN(Right):
    """Sums over the samples, with weight 0."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        return picard(sweep) + 0 * sweep.m.sum((0, 1), keepdim=True), state


class RemembersNaN(Right):
    """Carries a sum of old corrections along, with weight 0."""

    def init(self, problem: Problem) -> Any:
        return Memory(torch.zeros_like(problem.x0))

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        memory = state.value + (sweep.phi - sweep.after).sum(1)
        return picard(sweep) + 0 * memory[:, None], Memory(memory)


class DrawsGuesses(Right):
    """Jitters the guesses beyond the front by random numbers."""

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        new = picard(sweep)
        new[:, 1:] = new[:, 1:] + 1e-3 * torch.randn_like(new[:, 1:])
        return new, state


class LooseConfig(SolverConfig):
    """Settings that swallow whatever is written."""

    model_config = ConfigDict(extra="ignore")


class SwallowsSettings(Right):
    """Takes settings that it does not know."""

    config_cls = LooseConfig


class RefusesZeroConfig(SolverConfig):
    """Settings without tolerance 0."""

    tolerance: float = 0.1

    def model_post_init(self, context: Any) -> None:
        if self.tolerance == 0:
            raise ValueError("tolerance must be positive")


class RefusesZero(Right):
    """Cannot be made exact."""

    config_cls = RefusesZeroConfig


class Policy(WindowPolicy[ComponentConfig]):
    """A right sliding window of four."""

    def limit(self, steps: int) -> int:
        return min(4, steps)

    def initial(self, steps: int) -> Window:
        return Window(0, self.limit(steps))

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, min(lo + 4, steps))


class BeyondLimit(Policy):
    """Grows beyond what buffers are made for."""

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, min(lo + 6, steps))


class StartsLate(Policy):
    """Leaves node 0 out."""

    def initial(self, steps: int) -> Window:
        return Window(min(1, steps - 1), steps if steps < 4 else 4)


class SkipsAState(Policy):
    """Moves one further than was accepted."""

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = min(window.lo + stride + 1, steps)
        return Window(lo, min(lo + 3, steps))


class FallsBack(Policy):
    """Halves the window after a short stride."""

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, min(lo + (2 if stride == 1 else 4), steps))


class PassesTheEnd(Policy):
    """Forgets where the grid ends."""

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        return Window(window.lo + stride, window.lo + stride + 4)


class CountsCalls(Policy):
    """Keeps its own front."""

    front = 0

    def initial(self, steps: int) -> Window:
        self.front = 0
        return super().initial(steps)

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        self.front += stride
        return Window(self.front, min(self.front + 4, steps))


class FitChangesIt(Policy):
    """Writes what it found onto itself."""

    def fit(self, problem: Problem, max_rows: int | None) -> WindowPolicy[ComponentConfig]:
        self.steps = problem.steps
        return self


class Stops(Policy):
    """Gives an empty window before the end."""

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, max(window.hi, lo) if lo < 5 else min(lo + 4, steps))


class Stepper(BaseStepper[ComponentConfig]):
    """Euler in sigma / alpha on data, for any process: right."""

    def table(self, nodes: TimeGrid) -> StepTable:
        share = nodes.sigma[1:] / nodes.sigma[:-1]
        weight = nodes.alpha[1:] - share * nodes.alpha[:-1]
        return StepTable(share[:, None], weight[:, None], torch.zeros_like(share), Prediction.DATA)


class ClaimsTwo(Stepper):
    """Claims an order that it does not have."""

    order = 2


class VPFormula(Stepper):
    """A formula that holds where alpha² + sigma² = 1, used everywhere."""

    def table(self, nodes: TimeGrid) -> StepTable:
        sigma = (1 - nodes.alpha.square()).clamp(min=1e-4).sqrt()
        share = sigma[1:] / sigma[:-1]
        weight = nodes.alpha[1:] - share * nodes.alpha[:-1]
        return StepTable(share[:, None], weight[:, None], torch.zeros_like(share), Prediction.DATA)


class EqualSteps(Stepper):
    """Adams-Bashforth with the weights 3/2 and -1/2 whatever the steps' lengths, for flow and VE."""

    order = 2

    def table(self, nodes: TimeGrid) -> StepTable:
        if nodes.levels.dalpha is None:
            raise ValueError("This method steps along a velocity: use ddim.")
        h = nodes.t.diff()
        a, b = torch.zeros(len(h), 2, dtype=h.dtype), torch.zeros(len(h), 2, dtype=h.dtype)
        a[:, 0], b[:, 0], b[0, 0] = 1, 1.5 * h, h[0]
        b[1:, 1] = -0.5 * h[1:]
        return StepTable(a, b, torch.zeros_like(h), Prediction.VELOCITY)


class TooMuchNoise(Stepper):
    """Adds noise and does not make room for it."""

    def table(self, nodes: TimeGrid) -> StepTable:
        table = super().table(nodes)
        return dataclasses.replace(table, s=0.1 * nodes.sigma[1:])


class RemembersCalls(Stepper):
    """The second table of an object is another."""

    made = 0

    def table(self, nodes: TimeGrid) -> StepTable:
        self.made += 1
        table = super().table(nodes)
        return dataclasses.replace(table, b=table.b * (1 + 1e-3 * (self.made % 2)))


class MutatesGrid(Stepper):
    """Rounds the levels of the grid that it was given."""

    def table(self, nodes: TimeGrid) -> StepTable:
        nodes.sigma.mul_(1.001)
        return super().table(nodes)


class RefusesAll(Stepper):
    """Takes no process at all."""

    def table(self, nodes: TimeGrid) -> StepTable:
        raise ValueError("not on these nodes")


class LeavesItToTheTable(Stepper):
    """Divides by alpha at a start without data and lets the table complain."""

    def table(self, nodes: TimeGrid) -> StepTable:
        table = super().table(nodes)
        return dataclasses.replace(table, a=table.a * (nodes.alpha[:-1] / nodes.alpha[:-1])[:, None])


class OneStepShort(Stepper):
    """Its table has a step less than its nodes."""

    def table(self, nodes: TimeGrid) -> StepTable:
        return super().table(nodes.take(torch.arange(max(2, nodes.steps))))


@dataclass(frozen=True)
class Foresight:
    """A rule that uses the output of the node after the one it steps from."""

    table: StepTable
    wants: Prediction = Prediction.DATA
    order_in_time: int = 1
    stochastic: bool = False

    @property
    def steps(self) -> int:
        return self.table.steps

    def apply(self, n: Tensor, x: Tensor, m: Tensor, z: Tensor | None) -> Tensor:
        later = torch.cat([m[:, 1:], m[:, -1:]], 1)
        return self.table.apply(n, x, (m + later) / 2, z)


class LooksAhead(Stepper):
    """Not causal."""

    def rule(self, nodes: TimeGrid) -> StepRule:
        return Foresight(self.table(nodes))


@dataclass(frozen=True)
class Widening(Foresight):
    """A rule whose coefficients set the dtype."""

    def apply(self, n: Tensor, x: Tensor, m: Tensor, z: Tensor | None) -> Tensor:
        return self.table.apply(n, x.double(), m.double(), z)


class WidensSteps(Stepper):
    """Turns every state into float64."""

    def rule(self, nodes: TimeGrid) -> StepRule:
        return Widening(self.table(nodes))


class Model(GaussianMixture):
    """The mixture, right as it is."""

    def __init__(self, config: GaussianMixtureConfig, noise: NoiseSchedule | None = None) -> None:
        super().__init__(config, noise=noise)


class CentresRows(Model):
    """Normalises over the batch."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(x - 0.1 * x.mean(0), t, cond)


class RoundsTimes(Model):
    """Takes times in bfloat16, as a precision plugin does."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(x, t.bfloat16(), cond)


class ScalesInPlace(Model):
    """Normalises the states it was given."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(x.mul_(1.0001), t, cond)


class Drops(Model):
    """Leaves dropout on."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(torch.nn.functional.dropout(x, 0.1), t, cond)


class RunningStatistics(Model):
    """Leaves batch normalisation in training mode."""

    def __init__(self, config: GaussianMixtureConfig) -> None:
        super().__init__(config)
        self.norm = torch.nn.BatchNorm1d(config.dimension)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.norm(x.float() if len(x) > 1 else x.float().expand(2, -1))
        return super().forward(x, t, cond)


class IgnoresClasses(Model):
    """Takes classes and does not look at them."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(x, t, None)


class AcceptsNonsense(Model):
    """Clamps a class that does not exist."""

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor | None:
        return super().condition([None if c is None else min(max(c, 0), 3) for c in classes], prompts)


class WidensOutputs(Model):
    """Lets the times' float64 through."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(x, t, cond).double()


class HalvesShape(Model):
    """Gives fewer numbers than it was given."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super().forward(x, t, cond)[:, :1]


class NoDeviation(Model):
    """Says that its data does not vary."""

    def __init__(self, config: GaussianMixtureConfig) -> None:
        super().__init__(config)
        self.data_std = 0.0
