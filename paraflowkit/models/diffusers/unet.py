"""Networks without their pipeline: the model ``diffusers-unet``, and what it shares with the transformers."""

from __future__ import annotations

from typing import Any

from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import NetworkConfig
from paraflowkit.models.diffusers.load import load_network, scheduler_config
from paraflowkit.models.diffusers.network import DiffusersModel
from paraflowkit.models.diffusers.schedule import read_schedule
from paraflowkit.noise import EDM


class NetworkModel(DiffusersModel):
    """A network of diffusers alone, loaded from its folder; prompts come from a file that holds them encoded."""

    config_cls = NetworkConfig
    kind: str

    def __init__(self, config: NetworkConfig) -> None:
        network = load_network(config)
        schedule = read_schedule(self.scheduler(config), config.folder)
        super().__init__(network, schedule, config, config.folder, null_class=config.null_class)
        if self.family.kind != self.kind:
            raise ParaflowkitError(
                f"model.folder: {config.folder} holds a {type(network).__name__}: use the model {self.family.kind}."
            )
        self.check_process()

    def scheduler(self, config: Any) -> dict[str, Any]:
        """The configuration of the scheduler."""
        return scheduler_config(config)

    def check_process(self) -> None:
        """Raise ParaflowkitError where another model is made for the folder's process."""
        if isinstance(self.noise, EDM):
            raise ParaflowkitError(f"model.folder: {self.where} holds a preconditioned network: use the model edm.")


class DiffusersUNet(NetworkModel):
    """``UNet2DModel`` and ``UNet2DConditionModel`` of diffusers, with the process of the scheduler beside them."""

    kind = "diffusers-unet"
