"""The triangular system that a solver solves: network, nodes, step rule, start and conditions of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paraflowkit.core.draws import draw
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.stepper import BaseStepper, StepRule
from paraflowkit.core.treatment import Treatment, rescale_guidance
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import VP, NoiseSchedule
from paraflowkit.prediction import Prediction, convert

#: Evaluates network rows: (x, node index int64, cond) -> output. Fabric's evaluator spreads them over devices.
Evaluate = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True, eq=False)
class Here:
    """Calls a model as it is, where it is.

    Attributes:
        model: called. times: float64 ``(N + 1,)``, of the nodes.
    """

    model: VelocityModel
    times: Tensor

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        return self.model(x, self.times[node], cond)


def _alone(decision: Tensor) -> Tensor:
    return decision


@dataclass(frozen=True)
class Problem:
    """A batch of samples to be made.

    Attributes:
        evaluate: raw network output for ``(rows, *shape)`` states at int64 node indices ``(rows,)``.
        prediction: what that output is. nodes: N + 1 times and noise levels. rule: one step of the sampler.
        x0: ``(samples, *shape)``, the states at node 0; its dtype is the solve's.
        seeds: one a sample, for the noise of stochastic steps.
        cond, uncond: ``(samples, …)`` conditions of the guided and the unguided branch, or None.
        guidance: float64 ``(samples,)``; 1 is the plain conditional output.
        treatment: limits on the data prediction, from which other parameterisations are derived again, and the
            rescaling of guided outputs.
        learned_variance: the network's output has twice the channels, the second half a DDPM step's variance.
        nominal: the noise levels of the nodes are made up, so norms that divide by them mean nothing.
        data_std: standard deviation of the data, a scale for guesses.
        agree: makes one decision of those of several processes that share the solve.
    """

    evaluate: Evaluate
    prediction: Prediction
    nodes: TimeGrid
    rule: StepRule
    x0: Tensor
    seeds: tuple[int, ...]
    cond: Tensor | None = None
    uncond: Tensor | None = None
    guidance: Tensor | None = None
    treatment: Treatment = field(default_factory=Treatment)
    learned_variance: bool = False
    nominal: bool = False
    data_std: float = 1.0
    agree: Callable[[Tensor], Tensor] = _alone

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("conditions", self.cond), ("unguided conditions", self.uncond)):
            if value is not None and len(value) != len(self.x0):
                raise ValueError(f"A problem of {len(self.x0)} samples needs as many {name}, got {len(value)}.")
        if not len(self.x0):
            raise ValueError("There is nothing to sample: give at least one seed.")
        if not self.x0.is_floating_point():
            raise ValueError(f"States must be floating-point numbers, got {self.x0.dtype}.")
        if self.guidance is not None:
            if not bool(self.guidance.isfinite().all()):
                raise ValueError("Guidance scales must be finite.")
            if bool((self.guidance != 1).any()) and (self.uncond is None or self.cond is None):
                raise ValueError("Guidance other than 1 needs a condition and an unconditional branch: use guidance 1.")
        if self.nodes.steps != self.rule.steps:
            raise ValueError(f"The sampler has {self.rule.steps} steps and the grid {self.nodes.steps}.")
        if self._keeps_variance and not self.learned_variance:
            raise ValueError(
                "The sampler is set to a learned variance, which the network does not predict: use a fixed one."
            )
        blind = bool((self.nodes.alpha[:-1] == 0).any()) and self.prediction is Prediction.NOISE
        if blind and self.rule.wants is not Prediction.NOISE:
            raise ValueError(
                "At a node without data (zero terminal SNR, or the start of a flow) a predicted noise says nothing "
                "about the data: use a network that predicts the data, v (VP) or the velocity (flow), or list "
                "grid.sigmas that start where there is data."
            )

        here, one = self.nodes.levels[slice(0, -1)], self.nodes.alpha.new_ones(self.nodes.steps, 1)
        convert(one, one, here, self.prediction, self.wants)  # refuses what this process does not have

    @property
    def wants(self) -> Prediction:
        """The parameterisation in which the sampler takes the output."""
        return self.rule.wants

    @property
    def _keeps_variance(self) -> bool:
        """Whether the sampler asks for the variance that the network predicts."""
        return bool(getattr(self.rule, "learned_variance", False))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one sample's output."""
        channels, *rest = self.x0.shape[1:]
        return (channels * (2 if self._keeps_variance else 1), *rest)

    @property
    def steps(self) -> int:
        """N, the steps between nodes."""
        return self.rule.steps

    def output(self, x: Tensor, node: Tensor, sample: Tensor) -> Tensor:
        """The model's output after guidance, limits and conversion.

        Args:
            x: ``(rows, *shape)``. node, sample: int64 ``(rows,)``.

        Returns:
            ``(rows, *output_shape)``. A learned variance, which follows in the second half of the channels, is that of
            the conditional branch, as in the DiT pipeline of diffusers.
        """
        rows = len(x)
        cond = None if self.cond is None else self.cond[sample]
        guided = torch.zeros(rows, dtype=torch.bool, device=x.device)
        if self.guidance is not None:
            guided = self.guidance[sample] != 1
        if self.uncond is not None and cond is not None and bool(guided.any()):
            both = torch.cat([cond, self.uncond[sample[guided]]])
            out = self.evaluate(torch.cat([x, x[guided]]), torch.cat([node, node[guided]]), both)
            plain, free = out[:rows], out[rows:]
            assert self.guidance is not None  # implied by `guided`
            scale = self.guidance[sample[guided]].to(x.dtype).view(-1, *(1,) * (x.ndim - 1))
            pure, guess = self._halves(plain[guided])[0], self._halves(free)[0]
            mixed = guess + scale * (pure - guess)
            if self.treatment.guidance_rescale:
                mixed = rescale_guidance(mixed, pure, self.treatment.guidance_rescale)
            out = plain.clone()
            out[guided, : mixed.shape[1]] = mixed
        else:
            out = self.evaluate(x, node, cond)
        out, variance = self._halves(out)
        levels = self.nodes.levels[node]
        source = self.prediction
        if self.treatment.limits:
            out = self.treatment.limit(convert(out, x, levels, source, Prediction.DATA))
            source = Prediction.DATA
        out = convert(out, x, levels, source, self.wants)
        return torch.cat([out, variance], 1) if variance is not None and self._keeps_variance else out

    def _halves(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's prediction, and its learned variance where there is one."""
        if not self.learned_variance:
            return out, None
        first, second = out.chunk(2, 1)
        return first, second

    def network_rows(self, sample: Tensor) -> int:
        """How many network rows :meth:`output` makes of the rows of these samples."""
        if self.guidance is None or self.uncond is None:
            return len(sample)
        return len(sample) + int((self.guidance[sample] != 1).sum())

    def clean(self, x: Tensor, m: Tensor, node: Tensor) -> Tensor:
        """The data prediction of rows of states and outputs at int64 nodes ``(rows,)``."""
        m = m[:, : x.shape[1]]  # a learned variance says nothing about the data
        return convert(m, x, self.nodes.levels[node], self.wants, Prediction.DATA)

    def from_data(self, data: Tensor, x: Tensor, node: Tensor) -> Tensor:
        """The output, as the sampler wants it, that a data prediction stands for; the inverse of :meth:`clean`."""
        return convert(data, x, self.nodes.levels[node], Prediction.DATA, self.wants)

    @cached_property
    def held(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """:meth:`from_data` as weights of state and data prediction, float64 ``(N,)`` each.

        A node without noise within the grid has no such weights; there the output is taken to be 0.
        """
        here, one = self.nodes.levels[slice(0, -1)], self.nodes.alpha.new_ones(self.nodes.steps, 1)
        of_x = convert(torch.zeros_like(one), one, here, Prediction.DATA, self.wants)
        of_data = convert(one, torch.zeros_like(one), here, Prediction.DATA, self.wants)
        usable = of_x.isfinite() & of_data.isfinite()
        return tuple(torch.where(usable, w, 0.0)[:, 0].cpu().numpy() for w in (of_x, of_data))  # pyright: ignore[reportReturnType]


def _check_process(noise: NoiseSchedule, nodes: TimeGrid) -> None:
    """Raise ValueError for a grid of another process.

    Levels are those of the times; on VP, whose times may be rounded, within a training step and a half. The last node
    is free: it is where sampling ends, whatever it is told.
    """
    here = nodes.levels[slice(0, -1)]
    ratio, t = here.sigma / here.alpha, nodes.t[:-1]
    try:
        if isinstance(noise, VP):
            low, high = ((t - 1.5).clamp(min=0), (t + 1.5).clamp(max=noise.start))
            around = [at.sigma / at.alpha for at in (noise.levels(low), noise.levels(high))]
            fits = (t >= 0) & (t <= noise.start) & (ratio >= around[0] * 0.999) & (ratio <= around[1] * 1.001)
        else:
            own = noise.levels(t)
            fits = ((own.alpha - here.alpha).abs() < 1e-4) & ((own.sigma - here.sigma).abs() < 1e-4 * own.sigma + 1e-6)
        if bool(fits.all()):
            return
    except ValueError:
        pass
    raise ValueError(
        f"The grid's times and noise levels are not those of the model's process, {type(noise).__name__}: make it with "
        "make_grid(model.noise, …)."
    )


def make_problem(
    model: VelocityModel,
    stepper: BaseStepper[Any],
    grid: TimeGrid,
    seeds: list[int],
    *,
    classes: list[int | None] | None = None,
    prompts: list[str | None] | None = None,
    negative_prompts: list[str | None] | None = None,
    guidance: float | list[float] = 1.0,
    x0: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    treatment: Treatment | None = None,
    evaluate: Evaluate | None = None,
) -> Problem:
    """Put a model, a stepper and a grid together.

    Args:
        model, stepper, grid: the pieces. seeds: one a sample.
        classes, prompts: what each sample should show; None leaves the model unconditional.
        negative_prompts: of the unguided branch; None leaves it to the model.
        guidance: classifier-free guidance scale, one for all or one a sample.
        x0: states ``(samples, *shape)`` at the sampler's first node; by default noise drawn from the seeds.
        dtype, device: of the states. treatment: limits on the data prediction and guidance rescaling.
        evaluate: where rows are evaluated; by default the model is called as it is. One that spreads them over
            processes that run the same solve has a method ``agree``, the problem's.

    Raises:
        ValueError: pieces that do not fit each other; the message names the remedy.
    """
    count = len(seeds)
    if count == 0:
        raise ValueError("There is nothing to sample: give at least one seed.")
    preserved = bool(((grid.alpha.square() + grid.sigma.square() - 1).abs() < 1e-3).all())
    if model.prediction is Prediction.V and not preserved:
        raise ValueError(
            f"v-prediction belongs to variance-preserving processes, and {type(model.noise).__name__} is none: use a "
            "network that predicts data, noise or velocity."
        )
    nodes = stepper.nodes(grid, model.noise)
    _check_process(model.noise, nodes)
    rule = stepper.rule(nodes)
    for name, values in (("classes", classes), ("prompts", prompts), ("negative prompts", negative_prompts)):
        if values is not None and len(values) != count:
            raise ValueError(f"{count} samples need as many {name}, got {len(values)}.")
    scales = [guidance] * count if isinstance(guidance, (int, float)) else list(guidance)
    if len(scales) != count:
        raise ValueError(f"{count} samples need as many guidance scales, got {len(scales)}.")
    negatives: list[str | None] = negative_prompts or [None] * count
    if any(p is not None and scale == 1 for p, scale in zip(negatives, scales, strict=True)):
        raise ValueError("A negative prompt has no effect at guidance 1: set another guidance, or leave it out.")
    cond = model.condition(classes or [None] * count, prompts or [None] * count)
    needs_free = any(scale != 1 for scale in scales)
    if needs_free and cond is None:
        raise ValueError("Guidance other than 1 needs classes or prompts: give them, or use guidance 1.")
    uncond = model.negative_condition(cond, negatives) if cond is not None and needs_free else None
    if cond is not None:
        model.prepare(cond if uncond is None else torch.cat([cond, uncond]))
    if x0 is None:
        if float(nodes.sigma[0]) == 0:
            raise ValueError("The grid starts without noise, so its start cannot be drawn: give x0.")
        # At the sampler's own first node: it may start from more noise than the grid (EDM's churn).
        scale = model.noise.initial_scale(float(nodes.alpha[0]), float(nodes.sigma[0]), model.data_std)
        x0 = torch.stack([draw(seed, 0, model.shape) for seed in seeds]) * scale
    elif x0.shape != (count, *model.shape):
        raise ValueError(f"x0 must have the shape {(count, *model.shape)}, got {tuple(x0.shape)}.")
    if evaluate is None:
        evaluate = Here(model, nodes.t.to(device))
    return Problem(
        evaluate=evaluate,
        prediction=model.prediction,
        nodes=nodes,
        rule=rule,
        x0=x0.to(device=device, dtype=dtype),
        seeds=tuple(seeds),
        cond=None if cond is None else cond.to(device),
        uncond=None if uncond is None else uncond.to(device),
        guidance=torch.tensor(scales, dtype=torch.float64, device=device),
        treatment=treatment or Treatment(),
        learned_variance=model.learned_variance,
        data_std=model.data_std,
        agree=getattr(evaluate, "agree", _alone),
    )
