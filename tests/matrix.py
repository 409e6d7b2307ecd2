"""Configurations of diffusers' schedulers, and networks for them whose predictions are exact."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from problems import mixture
from torch import Tensor

from paraflowkit.noise import VE, VP, FlowMatching

MODULES = {
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim_parallel",
    "DDPMScheduler": "ddpm",
    "DDPMParallelScheduler": "ddpm_parallel",
    "DEISMultistepScheduler": "deis_multistep",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
    "EDMDPMSolverMultistepScheduler": "edm_dpmsolver_multistep",
    "EDMEulerScheduler": "edm_euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "EulerDiscreteScheduler": "euler_discrete",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
    "FlowMatchHeunDiscreteScheduler": "flow_match_heun_discrete",
    "FlowMatchLCMScheduler": "flow_match_lcm",
    "HeunDiscreteScheduler": "heun_discrete",
    "IPNDMScheduler": "ipndm",
    "KDPM2AncestralDiscreteScheduler": "k_dpm_2_ancestral_discrete",
    "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms_discrete",
    "PNDMScheduler": "pndm",
    "SASolverScheduler": "sasolver",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc_multistep",
}


@dataclass(frozen=True)
class Cell:
    """One configuration: the scheduler's class and settings, and what is passed to its methods."""

    scheduler: str
    config: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    timesteps: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"{k}={v}" for part in (self.config, self.step, self.timesteps) for k, v in part.items()]
        return "-".join([self.scheduler.removesuffix("Scheduler"), *words])

    @property
    def module(self) -> Any:
        return importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[self.scheduler]}")

    def make(self, steps: int) -> Any:
        made = getattr(self.module, self.scheduler)(**self.config)
        if "sigmas" in self.timesteps:
            made.set_timesteps(sigmas=self.timesteps["sigmas"](steps))
        else:
            made.set_timesteps(steps, **self.timesteps)
        return made


def _one_by_one(name: str, base: dict[str, Any], **choices: list[Any]) -> Iterator[Cell]:
    """The base, and each choice alone over it; a choice may be a dictionary of settings that go together."""
    yield Cell(name, base)
    for key, values in choices.items():
        for value in values:
            yield Cell(name, {**base, **(value if isinstance(value, dict) else {key: value})})


def _product(name: str, base: dict[str, Any], **choices: list[Any]) -> Iterator[Cell]:
    for values in itertools.product(*choices.values()):
        yield Cell(name, {**base, **dict(zip(choices, values, strict=True))})


class Even:
    """The levels that pipelines of flow-matching models pass; a class, so that its name can be a test's."""

    def __call__(self, steps: int) -> list[float]:
        return torch.linspace(1, 1 / steps, steps).tolist()

    def __repr__(self) -> str:
        return "even"


EVEN = Even()
SPACINGS = ["leading", "trailing", "linspace"]
KINDS = ["epsilon", "sample", "v_prediction"]
SHAPES = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
# At the start of the cosine schedule alpha is 5e-5, by which an epsilon prediction would be divided: in diffusers'
# float32 that leaves three digits, so v is predicted there.
BETAS = [{"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}]
VP_BASE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
NOISE_END = {"final_sigmas_type": "sigma_min"}


def cells() -> list[Cell]:
    """Every scheduler that :func:`paraflowkit.schedulers.table_from_scheduler` knows, over its settings."""
    out: list[Cell] = []
    base = {**VP_BASE, "clip_sample": False}
    ddim = [
        *_product("DDIMScheduler", base, timestep_spacing=SPACINGS, prediction_type=KINDS),
        *_one_by_one(
            "DDIMScheduler", base, beta_schedule=BETAS, set_alpha_to_one=[False], steps_offset=[1], zero=[ZERO_SNR]
        ),
    ]
    out += ddim + [Cell(c.scheduler, c.config, {"eta": eta}) for c in ddim for eta in (0.5, 1.0)]
    for limit in ({"clip_sample": True, "clip_sample_range": 1.5}, {"thresholding": True, "sample_max_value": 2.0}):
        out.append(Cell("DDIMScheduler", {**base, **limit}, {"use_clipped_model_output": True, "eta": 0.3}))
        out += _product("DDPMScheduler", {**base, **limit}, prediction_type=KINDS)
    out += _product("DDPMScheduler", base, timestep_spacing=SPACINGS, prediction_type=KINDS)
    out += _one_by_one(
        "DDPMScheduler",
        base,
        variance_type=["fixed_large", "fixed_small_log"],
        beta_schedule=[*BETAS, {"beta_schedule": "sigmoid"}],
        steps_offset=[1],
        zero=[ZERO_SNR],
    )
    out += [Cell("DDIMParallelScheduler", base), Cell("DDPMParallelScheduler", base)]
    for name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"):
        out += _product(name, VP_BASE, timestep_spacing=SPACINGS, prediction_type=KINDS)
        out += _one_by_one(
            name,
            VP_BASE,
            beta_schedule=BETAS,
            shape=SHAPES,
            steps_offset=[{"timestep_spacing": "leading", "steps_offset": 1}],
        )
    out += _product(
        "EulerAncestralDiscreteScheduler",
        VP_BASE,
        timestep_spacing=SPACINGS,
        prediction_type=["epsilon", "v_prediction"],
    )
    out += [
        Cell("EulerDiscreteScheduler", {**VP_BASE, **ZERO_SNR}),
        Cell("EulerAncestralDiscreteScheduler", {**VP_BASE, **ZERO_SNR}),
        Cell("EulerDiscreteScheduler", {**VP_BASE, **NOISE_END}),
        Cell("EulerDiscreteScheduler", {**VP_BASE, "interpolation_type": "log_linear"}),
        Cell("EulerDiscreteScheduler", {**VP_BASE, "interpolation_type": "log_linear", "use_exponential_sigmas": True}),
        Cell("EulerDiscreteScheduler", {**VP_BASE, "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}),
        Cell("EulerDiscreteScheduler", {**VP_BASE, "timestep_type": "continuous", "prediction_type": "v_prediction"}),
        Cell("HeunDiscreteScheduler", {**VP_BASE, "clip_sample": True, "clip_sample_range": 1.5}),
        *(Cell("LMSDiscreteScheduler", VP_BASE, {"order": order}) for order in (1, 2, 3)),
    ]
    dpm = "DPMSolverMultistepScheduler"
    for data in ("dpmsolver++", "sde-dpmsolver++"):
        out += _product(
            dpm, {**VP_BASE, "algorithm_type": data}, solver_order=[1, 2, 3], solver_type=["midpoint", "heun"]
        )
    for order, kind in itertools.product((1, 2, 3), ("midpoint", "heun")):
        out.append(
            Cell(
                dpm, {**VP_BASE, **NOISE_END, "algorithm_type": "dpmsolver", "solver_order": order, "solver_type": kind}
            )
        )
        if order < 3:
            out.append(
                Cell(
                    dpm,
                    {
                        **VP_BASE,
                        **NOISE_END,
                        "algorithm_type": "sde-dpmsolver",
                        "solver_order": order,
                        "solver_type": kind,
                    },
                )
            )
    out += _product(dpm, {**VP_BASE, "solver_order": 3}, timestep_spacing=SPACINGS, prediction_type=KINDS)
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    limited = {"thresholding": True, "sample_max_value": 2.0}
    out += _one_by_one(
        dpm,
        VP_BASE,
        beta_schedule=BETAS,
        shape=[*SHAPES, {"use_lu_lambdas": True}],
        euler_at_final=[True],
        lower_order_final=[False],
        final=[NOISE_END],
        steps_offset=[{"timestep_spacing": "leading", "steps_offset": 1}],
        flow=[flow],
        zero=[ZERO_SNR],
        limit=[limited, {**limited, **NOISE_END, "algorithm_type": "dpmsolver"}],
        lambda_min_clipped=[{"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}],
    )
    single = "DPMSolverSinglestepScheduler"
    for data in ("dpmsolver++", "sde-dpmsolver++"):
        settings = {**VP_BASE, "algorithm_type": data, "lower_order_final": True}
        out += _product(single, settings, solver_order=[1, 2, 3], solver_type=["midpoint", "heun"])
    settings = {**VP_BASE, **NOISE_END, "algorithm_type": "dpmsolver", "lower_order_final": True}
    out += _product(single, settings, solver_order=[1, 2, 3], solver_type=["midpoint", "heun"])
    settings = {**VP_BASE, "lower_order_final": True}
    out += _one_by_one(single, settings, prediction_type=KINDS, shape=SHAPES, flow=[flow], beta_schedule=BETAS)
    unipc = "UniPCMultistepScheduler"
    out += _product(unipc, VP_BASE, solver_order=[1, 2, 3, 4])
    out += _product(unipc, {**VP_BASE, **NOISE_END, "solver_type": "bh1"}, solver_order=[1, 2, 3])
    settings = {**VP_BASE, **NOISE_END, "predict_x0": False}
    out += _product(unipc, settings, solver_order=[1, 2, 3], solver_type=["bh1", "bh2"])
    out += _product(unipc, VP_BASE, timestep_spacing=SPACINGS, prediction_type=KINDS)
    out += _one_by_one(
        unipc,
        VP_BASE,
        beta_schedule=BETAS,
        shape=SHAPES,
        disable_corrector=[[0], [1, 3]],
        lower_order_final=[{**NOISE_END, "lower_order_final": False}],
        steps_offset=[{"timestep_spacing": "leading", "steps_offset": 1}],
        flow=[flow],
        zero=[ZERO_SNR],
        limit=[limited],
    )
    out += _product(
        "EDMEulerScheduler", {}, sigma_schedule=["karras", "exponential"], prediction_type=["epsilon", "v_prediction"]
    )
    out += [Cell("EDMEulerScheduler", NOISE_END)]
    edm = "EDMDPMSolverMultistepScheduler"
    out += _product(edm, {}, solver_order=[1, 2, 3], solver_type=["midpoint", "heun"])
    out += _product(edm, {"algorithm_type": "sde-dpmsolver++"}, solver_order=[1, 2], solver_type=["midpoint", "heun"])
    out += _one_by_one(
        edm, {}, sigma_schedule=["exponential"], euler_at_final=[True], final=[NOISE_END], limit=[limited]
    )
    euler = "FlowMatchEulerDiscreteScheduler"
    out += _one_by_one(euler, {}, shift=[3.0], shape=SHAPES, shift_terminal=[0.1], stochastic_sampling=[True])
    out += [
        Cell(euler, {"use_dynamic_shifting": True, "time_shift_type": kind}, timesteps={"mu": 0.8})
        for kind in ("exponential", "linear")
    ]
    out += [Cell(euler, {"shift": 3.0}, timesteps={"sigmas": EVEN})]
    out += [Cell("FlowMatchHeunDiscreteScheduler", {"shift": shift}) for shift in (1.0, 3.0)]
    return list({str(c): c for c in out}.values())


def others() -> list[Cell]:
    """Schedulers that are read off by probing."""
    return [
        *_product("DEISMultistepScheduler", VP_BASE, solver_order=[1, 2, 3]),
        Cell("KDPM2DiscreteScheduler", VP_BASE),
        Cell("KDPM2AncestralDiscreteScheduler", VP_BASE),
        Cell("PNDMScheduler", {**VP_BASE, "skip_prk_steps": True}),
        Cell("IPNDMScheduler"),
        Cell("LCMScheduler", {**VP_BASE, "clip_sample": False}),
        Cell("TCDScheduler", {**VP_BASE, "clip_sample": False}, {"eta": 0.3}),
        Cell("FlowMatchLCMScheduler"),
        Cell("EulerDiscreteScheduler", VP_BASE, {"s_churn": 5.0}),
    ]


Network = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def network(cell: Cell, scheduler: Any) -> Network:
    """:func:`_flat_network` for states with any number of dimensions."""
    flat = _flat_network(cell, scheduler)
    return lambda x, t, cond: flat(x.flatten(1), t, cond).view_as(x)


def _flat_network(cell: Cell, scheduler: Any) -> Network:
    """Raw outputs, as the scheduler takes them, of a network that predicts a Gaussian mixture exactly."""
    c = scheduler.config
    if cell.scheduler.startswith("FlowMatch") or c.get("use_flow_sigmas"):
        flow = mixture("flow", FlowMatching(), prediction="velocity")
        return lambda x, t, cond: -flow(x, (1 - t.double() / 1000).clamp(0, 1), cond)
    if cell.scheduler.startswith("EDM"):
        exploding = mixture("ve", VE(sigma_max=100.0))

        def preconditioned(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
            sigma = (4 * t.double()).exp()[:, None]
            total = sigma.square() + 0.25
            state = x * total.sqrt()
            data = exploding(state, sigma[:, 0], cond)
            sign = -1 if c.prediction_type == "v_prediction" else 1
            return sign * (data - 0.25 / total * state) * total.sqrt() / (sigma * 0.5)

        return preconditioned
    if cell.scheduler == "IPNDMScheduler":
        return lambda x, t, cond: 0.5 * torch.tanh(x + 0.1) * t.double()[:, None].sin()
    kinds = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
    names = {"squaredcos_cap_v2": "cosine"}
    noise = VP(
        schedule=names.get(c.beta_schedule, c.beta_schedule),
        beta_start=c.beta_start,
        beta_end=c.beta_end,
        zero_terminal_snr=bool(c.get("rescale_betas_zero_snr")),
    )
    preserving = mixture("vp", noise, prediction=kinds[c.prediction_type])
    if c.get("timestep_type") == "continuous":
        return lambda x, t, cond: preserving(x, noise.time_of((4 * t.double()).exp()), cond)
    return lambda x, t, cond: preserving(x, t.double().clamp(0, 999), cond)
