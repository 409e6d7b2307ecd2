"""The step table of a configured diffusers scheduler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from paraflowkit.core.draws import draw
from paraflowkit.core.problem import Problem
from paraflowkit.core.treatment import Treatment
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction, convert
from paraflowkit.schedulers.known import Frame, known_stepper, read_frame, treatment_of
from paraflowkit.schedulers.loop import Refusal, fresh, one_line, run
from paraflowkit.schedulers.probe import probe
from paraflowkit.table import StepTable

#: (scaled states, timesteps of the rows, conditions of the rows) -> raw outputs, as a pipeline calls its network.
Network = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

#: Largest relative difference to a scheduler's own step that its float32 arithmetic explains.
_CLOSE = 3e-5
#: Share of a step's inputs that the difference may be relative to: eight roundings of float32.
_ROUNDED = 8 * torch.finfo(torch.float32).eps / _CLOSE


@dataclass(frozen=True)
class SchedulerTable:
    """A configured scheduler as a step table, in its own coordinates: states are those of its pipeline's loop.

    Attributes:
        table: over outputs ``table.wants``. nodes: noise levels of the states.
        timesteps: ``(N,)``, what the network is told. input_scale: float64 ``(N,)``, ``scale_model_input``.
        prediction: what ``p · state + q · raw output`` is; p, q: float64 ``(N,)``. For most schedulers p is 0 and q 1;
            a flow's velocity changes sign (q = -1), and EDM's networks are preconditioned.
        initial_scale: of unit noise, ``init_noise_sigma``. treatment: limits on the data prediction.
        source: ``config``: the coefficients are those of a stepper of this package, float64, checked against the
            scheduler's own steps. ``probe``: they were read off its steps, in its own precision.
        nominal: the scheduler is not known, so the noise levels are made up: solvers refuse norms other than
            ``absolute``, and clean estimates mean nothing.
    """

    table: StepTable
    nodes: TimeGrid
    timesteps: Tensor
    input_scale: Tensor
    prediction: Prediction
    p: Tensor
    q: Tensor
    initial_scale: float
    treatment: Treatment
    source: Literal["config", "probe"]
    nominal: bool

    def problem(
        self,
        network: Network,
        shape: tuple[int, ...],
        seeds: Sequence[int],
        *,
        x0: Tensor | None = None,
        cond: Tensor | None = None,
        uncond: Tensor | None = None,
        guidance: float | Sequence[float] = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        guidance_rescale: float = 0.0,
    ) -> Problem:
        """The problem of sampling with this scheduler and a network.

        Args:
            network: called as ``network(x, timestep, cond)`` with scaled states ``(rows, *shape)``, timesteps
                ``(rows,)`` of the scheduler's dtype, and the rows' conditions or None.
            shape: of one sample. seeds: one a sample. x0: states at node 0; by default drawn from the seeds.
            cond, uncond: ``(samples, …)``. guidance: one scale for all or one a sample.

        Raises:
            ValueError: pieces that do not fit each other; the message names the remedy.
        """
        scales = [float(guidance)] * len(seeds) if isinstance(guidance, (int, float)) else [float(g) for g in guidance]
        if len(scales) != len(seeds):
            raise ValueError(f"{len(seeds)} samples need as many guidance scales, got {len(scales)}.")
        if guidance_rescale and bool(self.p.any()):
            raise ValueError(
                "guidance_rescale is made for plain network outputs, and this scheduler's network is preconditioned: "
                "use guidance_rescale 0."
            )
        if not len(seeds):
            raise ValueError("There is nothing to sample: give at least one seed.")
        if x0 is None:
            x0 = torch.stack([draw(seed, 0, shape) for seed in seeds]) * self.initial_scale
        times = self.timesteps.to(device)
        factors = [v.to(device=device) for v in (self.input_scale, self.p, self.q)]
        plain = not bool(self.p.any())

        def evaluate(x: Tensor, node: Tensor, c: Tensor | None) -> Tensor:
            scale, p, q = (v[node].to(x.dtype).view(-1, *(1,) * (x.ndim - 1)) for v in factors)
            out = network(x * scale, times[node], c).to(x.dtype)
            if out.shape != x.shape:
                raise ValueError(
                    f"The network gave outputs of shape {tuple(out.shape)} for states of shape {tuple(x.shape)}: the "
                    "two must be alike; cut off a learned variance."
                )
            return q * out if plain else p * x + q * out

        return Problem(
            evaluate=evaluate,
            prediction=self.prediction,
            nodes=self.nodes,
            rule=self.table,
            x0=x0.to(device=device, dtype=dtype),
            seeds=tuple(seeds),
            cond=None if cond is None else cond.to(device),
            uncond=None if uncond is None else uncond.to(device),
            guidance=torch.tensor(scales, dtype=torch.float64, device=device),
            treatment=replace(self.treatment, guidance_rescale=guidance_rescale),
            nominal=self.nominal,
        )


def table_from_scheduler(scheduler: Any, **step_options: Any) -> SchedulerTable:
    """The step table and noise levels of a configured diffusers scheduler.

    By configuration, as a stepper of this package: DDIM and DDPM (also their parallel variants), EulerDiscrete,
    EulerAncestralDiscrete, HeunDiscrete, LMSDiscrete, DPMSolverMultistep, DPMSolverSinglestep, UniPCMultistep,
    EDMEuler, EDMDPMSolverMultistep, FlowMatchEulerDiscrete and FlowMatchHeunDiscrete. That table is checked against the
    scheduler's own steps. Where the two differ, and for every other affine scheduler (DEIS, KDPM2, PNDM, IPNDM …), the
    table is read off its ``step`` by unit inputs on a deep copy and checked on random ones. The scheduler itself is not
    changed.

    Args:
        scheduler: after ``set_timesteps``. step_options: as passed to its ``step``, such as ``eta``.

    Raises:
        ValueError: the scheduler is not affine, has no steps yet or has stepped already; the message names the remedy.
    """
    fresh(scheduler)  # says what is wrong with it, before anything is read
    name = type(scheduler).__name__
    bases = {base.__name__ for base in type(scheduler).__mro__}
    if bases & {"DDPMScheduler", "DDPMParallelScheduler"} and str(scheduler.config.variance_type).startswith("learned"):
        raise Refusal(
            f"{name} takes its variance from the network, which is not affine: use the stepper ddpm with "
            f"variance {scheduler.config.variance_type!r}, or a fixed variance."
        )
    frame, treatment = read_frame(scheduler), treatment_of(scheduler)
    keeps = bases & {"DDIMScheduler", "DDIMParallelScheduler"} and not step_options.get("use_clipped_model_output")
    if treatment.limits and keeps:
        raise Refusal(
            f"{name} limits the data prediction and keeps the network's noise, which is not affine: set clip_sample "
            "and thresholding to False, pass use_clipped_model_output=True, or use the stepper clipped-ddim."
        )
    for limits in (treatment, Treatment()) if treatment.limits else (treatment,):  # some ignore their own settings
        for source in ("config", "probe"):
            table = (
                _from_config(scheduler, step_options, frame)
                if source == "config"
                else _in_frame(_read(scheduler, step_options, limits), frame)
            )
            if table is None:
                continue
            try:
                difference, scale = _difference(scheduler, step_options, frame, table, limits)
            except Refusal:
                raise
            except Exception as error:
                raise Refusal(f"{name} cannot be read as it is configured: {one_line(error)}") from error
            if difference <= _CLOSE:
                return SchedulerTable(
                    table=table,
                    nodes=frame.nodes,
                    timesteps=scheduler.timesteps.clone(),
                    input_scale=scale,
                    prediction=frame.prediction,
                    p=frame.p,
                    q=frame.q,
                    initial_scale=_initial_scale(scheduler),
                    treatment=limits,
                    source=source,
                    nominal=frame.nominal,
                )
    raise Refusal(
        f"{name} is not affine as it is configured, so no step table describes it: turn off what it clips or limits, "
        "if it does, or choose another scheduler."
    )


def _from_config(scheduler: Any, options: dict[str, Any], frame: Frame) -> StepTable | None:
    try:
        stepper = known_stepper(scheduler, options)
        return None if stepper is None else stepper.table(frame.nodes)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        return None  # a configuration that is no sampler of ours may yet be one of the scheduler's


def _initial_scale(scheduler: Any) -> float:
    """Flow-matching schedulers have no such member: their noise has deviation 1."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def _read(scheduler: Any, options: dict[str, Any], treatment: Treatment) -> StepTable:
    """Probe without the limits, which are not affine and are done before the table."""
    if treatment.limits:
        scheduler = copy.deepcopy(scheduler)
        present = {key: False for key in ("clip_sample", "thresholding") if key in scheduler.config}
        scheduler.register_to_config(**present)
    return probe(scheduler, options)


def _in_frame(table: StepTable, frame: Frame) -> StepTable:
    """A table over raw outputs as one over the frame's prediction: raw = (prediction - p x) / q."""
    a, b = table.a.clone(), table.b.clone()
    step = torch.arange(table.steps)
    for j in range(table.order_in_time):
        n = step[j:]
        b[n, j] = table.b[n, j] / frame.q[n - j]
        a[n, j] = table.a[n, j] - b[n, j] * frame.p[n - j]
    return StepTable(a, b, table.s, frame.prediction)


def _difference(
    scheduler: Any, options: dict[str, Any], frame: Frame, table: StepTable, treatment: Treatment
) -> tuple[float, Tensor]:
    """The largest difference of the table's steps from the scheduler's, along random runs of the latter.

    One run is of states and outputs of usual size and one of a thousand times that, which no clipping lets pass. A
    difference is relative to the result, and to a small share of what it is computed from, as float32 makes it.
    """
    worst = 0.0
    scale = torch.zeros(0)
    for size in (1.0, 1e3):
        found, scale = _run_difference(scheduler, options, frame, table, treatment, size)
        worst = max(worst, found)
    return worst, scale


def _run_difference(
    scheduler: Any, options: dict[str, Any], frame: Frame, table: StepTable, treatment: Treatment, size: float
) -> tuple[float, Tensor]:
    draws = torch.Generator().manual_seed(0)
    shape = (2, 1, 3, 2)
    steps = table.steps

    def random(scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=draws, dtype=torch.float64)

    start, outputs, noises = random(_initial_scale(scheduler) * size), random(2.0 * size), random(1.0)
    # Outputs and noises of each step are the same numbers turned round, so that none has to be stored for long.
    states: list[Tensor] = []

    def output(n: int) -> Tensor:
        return outputs.roll(n, 2).roll(n // 3, 3) * (1 if n % 2 else -0.7)

    def inputs(n: int, last: Tensor | None) -> tuple[Tensor, Tensor]:
        states.append(start if last is None else last.double())
        return states[-1], output(n)

    results, scale, drew = run(scheduler, options, inputs, lambda n: noises.roll(n, 2))
    if any(s != 0 and not d for s, d in zip(table.s.tolist(), drew, strict=True)):
        return torch.inf, scale
    x = torch.stack(states, 1)
    m = torch.stack([_prediction(frame, treatment, table, n, states[n], output(n)) for n in range(steps)], 1)
    z = torch.stack([noises.roll(n, 2) * float(drew[n]) for n in range(steps)], 1)
    past = torch.zeros(len(start), table.order_in_time - 1, *shape[1:], dtype=torch.float64)
    n = torch.arange(steps).expand(len(start), steps)
    ours = table.apply(n, torch.cat([past, x], 1), torch.cat([past, m], 1), z)
    theirs = torch.stack([r.double() for r in results], 1)
    if not bool(theirs.isfinite().all()):
        first = int((~theirs.isfinite().all(0).flatten(1).all(1)).nonzero()[0])
        raise Refusal(
            f"{type(scheduler).__name__} itself gives values that are not finite in step {first} as it is configured: "
            "choose other settings or another number of steps."
        )

    def largest(value: Tensor) -> Tensor:
        return value.abs().amax((0, 2, 3, 4))

    parts = largest(x) + largest(m) * table.b.abs().sum(1)
    error = largest(ours - theirs) / (largest(theirs) + _ROUNDED * parts).clamp(min=1e-12)
    return (torch.inf if not bool(error.isfinite().all()) else float(error.max())), scale


def _prediction(frame: Frame, treatment: Treatment, table: StepTable, n: int, x: Tensor, raw: Tensor) -> Tensor:
    """The output that the table takes, as :meth:`paraflowkit.core.problem.Problem.output` makes it."""
    out = frame.p[n] * x + frame.q[n] * raw
    levels, source = frame.nodes.levels[torch.full((len(x),), n)], frame.prediction
    if treatment.limits:
        out, source = treatment.limit(convert(out, x, levels, source, Prediction.DATA)), Prediction.DATA
    return convert(out, x, levels, source, table.wants)
