"""Muon for matrices, AdamW for everything else, in one optimizer.

Muon's step is the orthogonal factor of the momentum, found by a Newton-Schulz iteration [1]; scaled so that its
entries have the root mean square of an Adam step [2], one learning rate serves both. torch has a Muon of its own;
it iterates in bfloat16, which a CPU without such instructions runs ten times slower than the network's whole step. Here
the caller says which precision is fast.

[1] Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
[2] Liu et al., Muon is Scalable for LLM Training, 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """About U Vᵀ of the singular value decompositions U S Vᵀ of ``matrices`` (k, n, m).

    The singular values become 0.7 … 1.2. The quintic's coefficients are those of [1], for the steepest slope at 0.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon for hidden matrices and convolutions, AdamW for vectors, embeddings, and the layers named in ``adam``.

    Args:
        named: parameters with their names.
        lr: the learning rate of both. weight_decay: decoupled, of both.
        momentum: of Muon (Nesterov). betas: of AdamW.
        adam: parts of names; a parameter whose name has one of them is AdamW's.
        dtype: of the Newton-Schulz iteration; weights and momenta keep their own.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        adam: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            hidden = parameter.ndim >= 2 and not any(part in name for part in adam)
            (matrices if hidden else others).append(parameter)
        groups: list[dict[str, Any]] = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure.")
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in given:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if group["muon"]:
                self._muon(given, group)
            else:
                for parameter in given:
                    self._adam(parameter, parameter.grad, group)

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        steps: dict[nn.Parameter, Tensor] = {}
        for parameter in parameters:
            grad, state = parameter.grad, self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(grad)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            steps[parameter] = grad.lerp(state["momentum"], group["momentum"]).flatten(1)
            shapes.setdefault(steps[parameter].shape, []).append(parameter)
        # Matrices of one shape go together: one batched product is faster than many small ones.
        for shape, alike in shapes.items():
            scale = 0.2 * max(shape) ** 0.5
            made = orthogonal(torch.stack([steps[p] for p in alike]).to(self.dtype))
            for parameter, step in zip(alike, made, strict=True):
                parameter.add_(step.reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _adam(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["first"], state["second"] = torch.zeros_like(grad), torch.zeros_like(grad)
            state["count"] = torch.zeros(())
        state["count"] += 1
        count = float(state["count"])
        low, high = group["betas"]
        state["first"].lerp_(grad, 1 - low)
        state["second"].lerp_(grad.square(), 1 - high)
        size = (state["second"] / (1 - high**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["first"], size, value=-group["lr"] / (1 - low**count))
