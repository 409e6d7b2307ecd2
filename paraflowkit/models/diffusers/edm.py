"""The model ``edm``: networks with the preconditioning of Karras et al."""

from __future__ import annotations

from typing import Any

from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import EDMNetConfig
from paraflowkit.models.diffusers.load import scheduler_config
from paraflowkit.models.diffusers.unet import NetworkModel
from paraflowkit.noise import EDM


class EDMNet(NetworkModel):
    """A preconditioned U-Net: data estimate = c_skip x + c_out F(c_in x, ln(sigma) / 4).

    The folder's scheduler, an ``EDMEulerScheduler`` or ``EDMDPMSolverMultistepScheduler``, gives ``sigma_data`` and the
    range of training; settings win over it, and without a scheduler they and its class's defaults are used.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022, table 1.
    """

    config_cls = EDMNetConfig
    kind = "diffusers-unet"

    def scheduler(self, config: EDMNetConfig) -> dict[str, Any]:
        given = {key: getattr(config, key) for key in ("sigma_data", "sigma_min", "sigma_max")}
        base = {"_class_name": "EDMEulerScheduler"}
        try:
            found = scheduler_config(config)
        except ParaflowkitError:
            found = base
        return {**found, **{key: value for key, value in given.items() if value is not None}}

    def check_process(self) -> None:
        if not isinstance(self.noise, EDM):
            name = self.schedule.config["_class_name"]
            raise ParaflowkitError(
                f"model.folder: the scheduler of {self.where} is a {name}, which does not precondition its network: "
                "use the model diffusers-unet, or set model.scheduler to {_class_name: EDMEulerScheduler}."
            )
