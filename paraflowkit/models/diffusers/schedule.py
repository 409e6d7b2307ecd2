"""What the configuration of a scheduler says about the network beside it: process, prediction and usual grid."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch

from paraflowkit.errors import ParaflowkitError
from paraflowkit.noise import EDM, VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction

_KINDS = {
    "epsilon": Prediction.NOISE,
    "sample": Prediction.DATA,
    "v_prediction": Prediction.V,
    "flow_prediction": Prediction.VELOCITY,
}
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
#: Which convention a scheduler of VP networks reads its spacing in; ``ddim`` where its name holds none of these.
_CONVENTIONS = {
    "dpm": ("DPMSolver", "UniPC", "DEIS", "SASolver"),
    "euler": ("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE"),
}


def filled(given: dict[str, Any], where: str) -> dict[str, Any]:
    """A scheduler's configuration with its class's defaults.

    Raises:
        ParaflowkitError: diffusers has no such scheduler.
    """
    import diffusers

    name = given.get("_class_name")
    made = getattr(diffusers, str(name), None)
    if made is None or not hasattr(made, "from_config"):
        raise ParaflowkitError(
            f"{where}: the scheduler {name!r} is none of diffusers', so the process is not known: set model.scheduler "
            "to one, such as {_class_name: DDIMScheduler}."
        )
    usual = {
        key: p.default for key, p in inspect.signature(made.__init__).parameters.items() if p.default is not p.empty
    }
    return {**usual, **given}


@dataclass(frozen=True)
class Schedule:
    """Process and prediction of a network.

    Attributes:
        noise: the process. prediction: what the network's output estimates; a preconditioned network's is the data.
        config: the scheduler's configuration, with defaults. output_sign: of EDM's c_out; that of v-predictions is
            turned round in diffusers.
    """

    noise: NoiseSchedule
    prediction: Prediction
    config: dict[str, Any]
    output_sign: float = 1.0

    @property
    def train_steps(self) -> int:
        """By which a flow's noise level is multiplied on its way to the network."""
        return int(self.config.get("num_train_timesteps", 1000))

    def grid(self, steps: int, tokens: int, listed: bool) -> dict[str, Any]:
        """Settings of the grid on which the folder's own pipeline samples with that many steps.

        Args:
            steps: N. tokens: of the image, for shifts by resolution. listed: the pipeline lists its levels itself,
                from 1 to 1 / N, as Flux's does.

        Raises:
            ValueError: the scheduler has an option that grids do not.
        """
        c, name = self.config, self.config["_class_name"]
        shapes = [word for word in ("karras", "exponential", "beta") if c.get(f"use_{word}_sigmas")]
        odd = [key for key in ("use_lu_lambdas", "invert_sigmas", "use_flow_sigmas") if c.get(key)]
        if isinstance(self.noise, EDM):
            shapes = [c["sigma_schedule"]]
            odd += ["final_sigmas_type"] if c.get("final_sigmas_type", "zero") != "zero" else []
        settings: dict[str, Any] = {}
        if isinstance(self.noise, FlowMatching) and not odd:
            settings = self._flow_grid(steps, tokens, listed)
            odd += ["use_dynamic_shifting"] if "sigmas" in settings and shapes else []
        if odd:
            raise ValueError(
                f"{name}'s {odd[0]} has no like among grids: write a 'grid' section with more than 'steps', which is "
                "then used in place of the scheduler's."
            )
        if shapes:
            settings["shape"] = shapes[0]
        if isinstance(self.noise, EDM) and shapes[0] == "karras":
            settings["rho"] = float(c.get("rho", 7.0))
        return settings | (self._vp_grid(bool(shapes)) if isinstance(self.noise, VP) else {})

    def _flow_grid(self, steps: int, tokens: int, listed: bool) -> dict[str, Any]:
        c = self.config
        settings: dict[str, Any] = {"spacing": "uniform" if listed else "linspace", "shift": float(c["shift"])}
        if c.get("use_dynamic_shifting"):
            base, most = c.get("base_image_seq_len", 256), c.get("max_image_seq_len", 4096)
            low, high = c.get("base_shift", 0.5), c.get("max_shift", 1.15)
            mu = low + (high - low) / (most - base) * (tokens - base)
            settings["shift"] = mu if c.get("time_shift_type") == "linear" else math.exp(mu)
            if not listed:
                # The range that the scheduler remembers is not shifted yet, unlike that of a fixed shift.
                least = 1 / self.train_steps
                del settings["spacing"]
                settings["sigmas"] = torch.linspace(1, least, steps, dtype=torch.float64).tolist()
        if c.get("shift_terminal"):
            settings["shift_terminal"] = float(c["shift_terminal"])
        return settings

    def _vp_grid(self, shaped: bool) -> dict[str, Any]:
        c, name = self.config, self.config["_class_name"]
        kinds = [kind for kind, words in _CONVENTIONS.items() if any(word in name for word in words)]
        kind = kinds[-1] if kinds else "ddim"
        settings: dict[str, Any] = {"convention": kind}
        if not (shaped and kind == "dpm"):
            spacing = c.get("timestep_spacing", "leading")
            settings["spacing"] = spacing
            if spacing == "leading":
                settings["steps_offset"] = int(c.get("steps_offset", 0))
        if c.get("final_sigmas_type") == "sigma_min":
            settings["final"] = "sigma_min"
        return settings


def read_schedule(given: dict[str, Any], where: str) -> Schedule:
    """What a scheduler's configuration says.

    Args:
        given: as in ``scheduler_config.json``. where: the folder, for messages.

    Raises:
        ParaflowkitError: a scheduler whose process is not known.
    """
    c = filled(given, where)
    name = c["_class_name"]
    if name in _FLOW:
        return Schedule(FlowMatching(), Prediction.VELOCITY, c)
    kind = c.get("prediction_type", "epsilon")
    if name in _EDM:
        sign = {"epsilon": 1.0, "v_prediction": -1.0}.get(kind)
        if sign is None:
            raise ParaflowkitError(f"{where}: a preconditioned network of prediction_type {kind!r} is not known.")
        noise = EDM(float(c["sigma_max"]), float(c["sigma_min"]), float(c["sigma_data"]))
        return Schedule(noise, Prediction.DATA, c, sign)
    if c.get("use_flow_sigmas") or kind == "flow_prediction":
        if kind != "flow_prediction":
            raise ParaflowkitError(f"{where}: flow sigmas with prediction_type {kind!r} are not supported.")
        return Schedule(FlowMatching(), Prediction.VELOCITY, c)
    schedule = c.get("beta_schedule")
    if c.get("trained_betas") is not None or schedule not in _BETAS or kind not in _KINDS:
        raise ParaflowkitError(
            f"{where}: {name} with beta_schedule {schedule!r} and prediction_type {kind!r} describes no known process: "
            f"wanted are {', '.join(_BETAS)} without trained_betas, and {', '.join(_KINDS)}."
        )
    noise = VP(
        schedule=_BETAS[schedule],
        steps=int(c["num_train_timesteps"]),
        beta_start=float(c["beta_start"]),
        beta_end=float(c["beta_end"]),
        final_alpha_one=bool(c.get("set_alpha_to_one", True)),
        zero_terminal_snr=bool(c.get("rescale_betas_zero_snr", False)),
    )
    return Schedule(noise, _KINDS[kind], c)
