"""The interface of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from paraflowkit.core import API_VERSION
from paraflowkit.core.config import ComponentConfig
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction


class VelocityModel(nn.Module, ABC):
    """A network that predicts data, noise, v or velocity at a noisy state.

    Attributes:
        noise: the process that it was trained on. prediction: what its output estimates.
        learned_variance: the output has twice the channels, the second half of which is the variance of a DDPM step.
        shape: of one sample. data_std: standard deviation of the data, by which relative errors are divided.
    """

    api_version = API_VERSION
    config_cls: type[ComponentConfig] = ComponentConfig
    noise: NoiseSchedule
    prediction: Prediction
    shape: tuple[int, ...]
    data_std: float = 1.0
    learned_variance: bool = False

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Predict.

        Args:
            x: ``(rows, *shape)``. t: float64 ``(rows,)``, times of :attr:`noise`, never rounded on the way.
            cond: ``(rows, …)`` as made by :meth:`condition`, or None.

        Returns:
            ``(rows, *shape)`` of x's dtype.
        """

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor | None:
        """Turn the wanted classes or prompts of the samples into a tensor whose first dimension is the samples.

        Raises:
            ValueError: the model does not understand a class or prompt.
        """
        if any(c is not None for c in classes) or any(p is not None for p in prompts):
            raise ValueError(f"{type(self).__name__} is unconditional: leave out 'classes' and 'prompts'.")
        return None

    def null_condition(self, cond: Tensor) -> Tensor:
        """The condition of the unguided branch, of cond's shape. Raises ValueError where there is none."""
        raise ValueError(f"{type(self).__name__} has no unconditional branch: use guidance 1.")

    def negative_condition(self, cond: Tensor, prompts: list[str | None]) -> Tensor:
        """:meth:`null_condition` with a negative prompt of each sample, or None for the model's own.

        Raises:
            ValueError: the model does not understand negative prompts.
        """
        if any(p is not None for p in prompts):
            raise ValueError(f"{type(self).__name__} understands no negative prompts: leave out 'negative_prompt'.")
        return self.null_condition(cond)

    def prepare(self, cond: Tensor) -> None:
        """Called once with the conditions of a batch, ``(any number, …)``, before it is solved.

        A model whose conditions only name what they stand for, such as prompts, makes it here, so that no solver pays
        for it.
        """

    def grid_settings(self, steps: int) -> dict[str, Any]:
        """Settings of the grid that the network is usually sampled on with so many steps, beside ``steps``.

        The predict loop uses them where a run says nothing about its grid but the number of steps. Raises ValueError
        where there is a usual grid that settings cannot express.
        """
        return {}

    def compile_network(self) -> None:
        """Have torch compile, in place, what is called with rows, each number of rows for itself.

        Called once, when the model is on its device and in its precision. A model whose :meth:`forward` does more than
        torch can compile compiles its network alone.
        """
        self.compile(dynamic=False)

    def decode(self, x: Tensor) -> Tensor:
        """Samples ``(n, *shape)`` as what they stand for, images ``(n, channels, h, w)`` in [-1, 1] for instance."""
        return x
