"""What the configurations of diffusers' schedulers mean: their noise levels, and the stepper that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.core.treatment import Treatment
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import Levels
from paraflowkit.prediction import Prediction
from paraflowkit.schedulers.loop import Refusal, one_line
from paraflowkit.steppers.configs import (
    DDIMConfig,
    DDPMConfig,
    DPMSolverConfig,
    DPMSolverSinglestepConfig,
    EulerAncestralConfig,
    EulerConfig,
    FlowHeunConfig,
    HeunConfig,
    LMSConfig,
    UniPCConfig,
)
from paraflowkit.steppers.ddim import DDIM
from paraflowkit.steppers.ddpm import DDPM
from paraflowkit.steppers.dpm_solver import DPMSolver
from paraflowkit.steppers.dpm_solver_singlestep import DPMSolverSinglestep
from paraflowkit.steppers.euler import Euler
from paraflowkit.steppers.euler_ancestral import EulerAncestral
from paraflowkit.steppers.flow_heun import FlowHeun
from paraflowkit.steppers.heun import Heun
from paraflowkit.steppers.lms import LMS
from paraflowkit.steppers.unipc import UniPC

Stepper = BaseStepper[Any]
_KINDS = {
    "epsilon": Prediction.NOISE,
    "sample": Prediction.DATA,
    "original_sample": Prediction.DATA,
    "v_prediction": Prediction.V,
    "flow_prediction": Prediction.VELOCITY,
}


@dataclass(frozen=True)
class Frame:
    """How a scheduler's states and its network's outputs are to be read.

    Attributes:
        nodes: of the states, in the scheduler's own coordinates. prediction: what ``p · state + q · raw output`` is.
        p, q: float64 ``(N,)``.
        nominal: the levels are made up, for a scheduler that is not known.
    """

    nodes: TimeGrid
    prediction: Prediction
    p: Tensor
    q: Tensor
    nominal: bool = False


def _frame(t: Tensor, levels: Levels, prediction: Prediction, sign: float = 1.0) -> Frame:
    steps = len(t) - 1
    zeros = torch.zeros(steps, dtype=torch.float64)
    return Frame(TimeGrid(t, levels), prediction, zeros, torch.full_like(zeros, sign))


def _kind(scheduler: Any) -> Prediction:
    given = scheduler.config.prediction_type
    if given not in _KINDS:
        raise Refusal(f"{type(scheduler).__name__} has the unknown prediction_type {given!r}: use {', '.join(_KINDS)}.")
    return _KINDS[given]


def _sigmas(scheduler: Any) -> Tensor:
    """One a node; log-linear interpolation in diffusers lists another 0 behind."""
    return scheduler.sigmas.double().cpu()[: len(scheduler.timesteps) + 1]


def _times(scheduler: Any) -> Tensor:
    times = scheduler.timesteps.double().cpu()
    return torch.cat([times, times.new_tensor([-1.0])])


def _flow_levels(sigma: Tensor) -> Levels:
    return Levels(1 - sigma, sigma, torch.ones_like(sigma), -torch.ones_like(sigma))


def _exploding(scheduler: Any) -> Frame:
    """alpha = 1: the states of the k-diffusion family, whose networks see ``x / sqrt(sigma² + 1)``."""
    sigma = _sigmas(scheduler)
    return _frame(_times(scheduler), Levels(torch.ones_like(sigma), sigma), _kind(scheduler))


def _preserving(scheduler: Any) -> Frame:
    """The DPM-Solver family: sigma / alpha is listed and states are variance-preserving, or flow levels are listed."""
    sigma, kind = _sigmas(scheduler), _kind(scheduler)
    if scheduler.config.get("use_flow_sigmas"):
        # Their velocity points from data to noise, ours the way that sampling goes.
        return _frame(1 - sigma, _flow_levels(sigma), kind, -1.0 if kind is Prediction.VELOCITY else 1.0)
    alpha = (1 + sigma.square()).rsqrt()
    return _frame(_times(scheduler), Levels(alpha, sigma * alpha), kind)


def _training_times(scheduler: Any) -> Frame:
    """DDIM and DDPM: levels of the training steps, and a last one."""
    bars = scheduler.alphas_cumprod.double().cpu()
    last = getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0)).double().cpu().reshape(1)
    bar = torch.cat([bars[scheduler.timesteps.cpu().long()], last])
    levels = Levels(bar.sqrt(), (1 - bar).sqrt())
    return _frame(_times(scheduler), levels, _kind(scheduler))


def _flow(scheduler: Any) -> Frame:
    sigma = _sigmas(scheduler)
    return _frame(1 - sigma, _flow_levels(sigma), Prediction.VELOCITY, -1.0)


def _edm(scheduler: Any) -> Frame:
    """alpha = 1, and preconditioned networks: the data prediction is c_skip x + c_out F (Karras et al. 2022)."""
    sigma, kind = _sigmas(scheduler), scheduler.config.prediction_type
    s2, at = scheduler.config.sigma_data**2, sigma[:-1]
    total = at.square() + s2
    c_out = at * scheduler.config.sigma_data / total.sqrt() * (-1 if kind == "v_prediction" else 1)
    nodes = TimeGrid(_times(scheduler), Levels(torch.ones_like(sigma), sigma))
    return Frame(nodes, Prediction.DATA, s2 / total, c_out)


def _ddpm(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    kinds = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large"}
    kind = kinds.get(scheduler.config.variance_type)
    return None if kind is None or options else DDPM(DDPMConfig.model_validate({"variance": kind}))


def _dpm(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    c = scheduler.config
    return (
        None
        if options
        else DPMSolver(
            DPMSolverConfig(
                order=c.solver_order,
                algorithm=c.algorithm_type,
                solver_type=c.solver_type,
                lower_order_final=c.lower_order_final,
                euler_at_final=c.euler_at_final,
            )
        )
    )


def _dpm_single(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    c = scheduler.config
    return (
        None
        if options
        else DPMSolverSinglestep(
            DPMSolverSinglestepConfig(
                order=c.solver_order,
                algorithm=c.algorithm_type,
                solver_type=c.solver_type,
                lower_order_final=c.lower_order_final,
            )
        )
    )


def _unipc(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    c = scheduler.config
    return (
        None
        if options or c.get("solver_p") is not None
        else UniPC(
            UniPCConfig(
                order=c.solver_order,
                predict="data" if c.predict_x0 else "noise",
                solver_type=c.solver_type,
                lower_order_final=c.lower_order_final,
                disable_corrector=list(c.disable_corrector),
            )
        )
    )


def _plain(stepper: Stepper, *known: str) -> Callable[[Any, dict[str, Any]], Stepper | None]:
    """A stepper without settings, for calls of ``step`` without options but the ``known`` ones."""
    return lambda scheduler, options: None if set(options) - set(known) else stepper


def _ddim(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    rest = set(options) - {"eta", "use_clipped_model_output"}
    return None if rest else DDIM(DDIMConfig(eta=float(options.get("eta", 0.0))))


def _lms(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    return None if set(options) - {"order"} else LMS(LMSConfig(order=int(options.get("order", 4))))


_Reader = Callable[[Any], Frame]
_Maker = Callable[[Any, dict[str, Any]], "Stepper | None"]

#: Scheduler -> how its states are read, and the stepper that it is.
KNOWN: dict[str, tuple[_Reader, _Maker]] = {
    "DDIMScheduler": (_training_times, _ddim),
    "DDIMParallelScheduler": (_training_times, _ddim),
    "DDPMScheduler": (_training_times, _ddpm),
    "DDPMParallelScheduler": (_training_times, _ddpm),
    "DPMSolverMultistepScheduler": (_preserving, _dpm),
    "DPMSolverSinglestepScheduler": (_preserving, _dpm_single),
    "EDMDPMSolverMultistepScheduler": (_edm, _dpm),
    "EDMEulerScheduler": (_edm, _plain(Euler(EulerConfig()))),
    "EulerAncestralDiscreteScheduler": (_exploding, _plain(EulerAncestral(EulerAncestralConfig()))),
    "EulerDiscreteScheduler": (_exploding, _plain(Euler(EulerConfig()))),
    "FlowMatchEulerDiscreteScheduler": (_flow, _plain(Euler(EulerConfig()))),
    "FlowMatchHeunDiscreteScheduler": (_flow, _plain(FlowHeun(FlowHeunConfig()))),
    "HeunDiscreteScheduler": (_exploding, _plain(Heun(HeunConfig()))),
    "LMSDiscreteScheduler": (_exploding, _lms),
    "UniPCMultistepScheduler": (_preserving, _unipc),
}

#: Schedulers whose states are read as a known one's, while their steps are probed.
READ_AS: dict[str, _Reader] = {
    "DEISMultistepScheduler": _preserving,
    "FlowMatchLCMScheduler": _flow,
    "LCMScheduler": _training_times,
    "SASolverScheduler": _preserving,
    "TCDScheduler": _training_times,
}


def _find(scheduler: Any, table: dict[str, Any]) -> Any:
    """The entry of the scheduler's class or of the nearest base class."""
    return next((table[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in table), None)


def known_stepper(scheduler: Any, options: dict[str, Any]) -> Stepper | None:
    """The stepper that a scheduler is by its configuration, or None.

    Raises:
        ValueError: by its configuration it would be a stepper with settings that do not exist.
    """
    entry = _find(scheduler, KNOWN)
    return None if entry is None else entry[1](scheduler, options)


def read_frame(scheduler: Any) -> Frame:
    """How a scheduler's states are to be read; made-up levels for one that is not known.

    Raises:
        Refusal: its configuration makes no sense.
    """
    entry = _find(scheduler, KNOWN)
    reader = entry[0] if entry is not None else _find(scheduler, READ_AS)
    if reader is not None:
        try:
            frame: Frame = reader(scheduler)
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(
                f"{type(scheduler).__name__}'s noise levels cannot be read, its configuration seems not to fit itself: "
                f"{one_line(error)}"
            ) from error
        if frame.nodes.steps == len(scheduler.timesteps):
            return frame
    alpha = torch.linspace(0, 1, len(scheduler.timesteps) + 1, dtype=torch.float64)
    frame = _frame(alpha, _flow_levels(1 - alpha), Prediction.DATA)
    return Frame(frame.nodes, frame.prediction, frame.p, frame.q, nominal=True)


def treatment_of(scheduler: Any) -> Treatment:
    """The limits on the data prediction that a configuration asks for."""
    c = scheduler.config
    if c.get("thresholding"):
        return Treatment(threshold=c.dynamic_thresholding_ratio, threshold_max=c.sample_max_value)
    return Treatment(clip=c.get("clip_sample_range", 1.0)) if c.get("clip_sample") else Treatment()
