"""The triangular system that a solver solves: network, nodes, step rule, start and conditions of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.draws import draw
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.stepper import BaseStepper, StepRule
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule, Prediction, convert

#: Evaluates network rows: (x, node index int64, cond) -> output. Fabric's evaluator spreads them over devices.
Evaluate = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Problem:
    """A batch of samples to be made.

    Attributes:
        evaluate: raw network output for ``(rows, *shape)`` states at int64 node indices ``(rows,)``.
        noise, prediction: the network's process and output. nodes: N + 1 times. rule: one step of the sampler.
        wants: the parameterisation in which the rule takes the output.
        x0: ``(samples, *shape)``, the states at node 0; its dtype is the solve's.
        seeds: one a sample, for the noise of stochastic steps.
        cond, uncond: ``(samples, …)`` conditions of the guided and the unguided branch, or None.
        guidance: float64 ``(samples,)``; 1 is the plain conditional output.
        clip: largest absolute value of a data prediction, or None. Other parameterisations are derived again from the
            clipped data.
    """

    evaluate: Evaluate
    noise: NoiseSchedule
    prediction: Prediction
    nodes: TimeGrid
    rule: StepRule
    wants: Prediction
    x0: Tensor
    seeds: tuple[int, ...]
    cond: Tensor | None = None
    uncond: Tensor | None = None
    guidance: Tensor | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.x0):
            raise ValueError(f"A problem of {len(self.x0)} samples needs as many seeds, got {len(self.seeds)}.")
        if self.guidance is not None and bool((self.guidance != 1).any()) and self.uncond is None:
            raise ValueError("Guidance other than 1 needs a model with an unconditional branch: use guidance 1.")

    @property
    def steps(self) -> int:
        """N, the steps between nodes."""
        return self.rule.steps

    def output(self, x: Tensor, node: Tensor, sample: Tensor) -> Tensor:
        """The model's output after guidance, conversion and clipping.

        Args:
            x: ``(rows, *shape)``. node, sample: int64 ``(rows,)``.
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
            out = plain.clone()
            out[guided] = free + scale * (plain[guided] - free)
        else:
            out = self.evaluate(x, node, cond)
        t = self.nodes.t.to(x.device)[node]
        if self.clip is None:
            return convert(out, x, t, self.noise, self.prediction, self.wants)
        data = convert(out, x, t, self.noise, self.prediction, Prediction.DATA).clamp(-self.clip, self.clip)
        return convert(data, x, t, self.noise, Prediction.DATA, self.wants)

    def network_rows(self, sample: Tensor) -> int:
        """How many network rows :meth:`output` makes of the rows of these samples."""
        if self.guidance is None or self.uncond is None:
            return len(sample)
        return len(sample) + int((self.guidance[sample] != 1).sum())

    def clean(self, x: Tensor, m: Tensor, node: Tensor) -> Tensor:
        """The data prediction of rows of states and outputs at int64 nodes ``(rows,)``."""
        t = self.nodes.t.to(x.device)[node]
        return convert(m, x, t, self.noise, self.wants, Prediction.DATA)


def make_problem(
    model: VelocityModel,
    stepper: BaseStepper[Any],
    grid: TimeGrid,
    seeds: list[int],
    *,
    classes: list[int | None] | None = None,
    prompts: list[str | None] | None = None,
    guidance: float | list[float] = 1.0,
    x0: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    clip: float | None = None,
    evaluate: Evaluate | None = None,
) -> Problem:
    """Put a model, a stepper and a grid together.

    Args:
        model, stepper, grid: the pieces. seeds: one a sample.
        classes, prompts: what each sample should show; None leaves the model unconditional.
        guidance: classifier-free guidance scale, one for all or one a sample.
        x0: start states ``(samples, *shape)``; by default drawn from the seeds.
        dtype, device: of the states. clip: see :class:`Problem`.
        evaluate: where rows are evaluated; by default the model is called as it is.

    Raises:
        ValueError: pieces that do not fit each other; the message names the remedy.
    """
    count = len(seeds)
    if count == 0:
        raise ValueError("There is nothing to sample: give at least one seed.")
    nodes = stepper.nodes(grid)
    rule = stepper.rule(nodes, model.noise)
    for name, values in (("classes", classes), ("prompts", prompts)):
        if values is not None and len(values) != count:
            raise ValueError(f"{count} samples need as many {name}, got {len(values)}.")
    scales = [guidance] * count if isinstance(guidance, (int, float)) else list(guidance)
    if len(scales) != count:
        raise ValueError(f"{count} samples need as many guidance scales, got {len(scales)}.")
    cond = model.condition(classes or [None] * count, prompts or [None] * count)
    needs_free = any(scale != 1 for scale in scales)
    if needs_free and cond is None:
        raise ValueError("Guidance other than 1 needs classes or prompts: give them, or use guidance 1.")
    uncond = model.null_condition(cond) if cond is not None and needs_free else None
    if x0 is None:
        x0 = torch.stack([draw(seed, 0, model.shape) for seed in seeds]) * model.noise.initial_scale()
    if evaluate is None:
        times = nodes.t.to(device)

        def evaluate_here(x: Tensor, node: Tensor, c: Tensor | None) -> Tensor:
            return model(x, times[node], c)

        evaluate = evaluate_here
    return Problem(
        evaluate=evaluate,
        noise=model.noise,
        prediction=model.prediction,
        nodes=nodes,
        rule=rule,
        wants=stepper.wants,
        x0=x0.to(device=device, dtype=dtype),
        seeds=tuple(seeds),
        cond=None if cond is None else cond.to(device),
        uncond=None if uncond is None else uncond.to(device),
        guidance=torch.tensor(scales, dtype=torch.float64, device=device),
        clip=clip,
    )
