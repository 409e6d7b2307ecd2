"""Trajectories on disk, from which later runs start warm."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from paraflowkit.errors import ParaflowkitError
from paraflowkit.grid import TimeGrid

__all__ = ["load_trajectory", "save_trajectory", "trajectory_bytes"]


def trajectory_bytes(trajectory: Tensor, nodes: TimeGrid) -> bytes:
    """``(samples, N + 1, *shape)`` states and the nodes they belong to, as the contents of a safetensors file."""
    levels = {"times": nodes.t, "alpha": nodes.alpha, "sigma": nodes.sigma}
    tensors = {"trajectory": trajectory, **levels}
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def save_trajectory(path: Path, trajectory: Tensor, nodes: TimeGrid) -> None:
    """Write :func:`trajectory_bytes` to a file."""
    # Not save_file, which makes files that nobody else may read.
    path.write_bytes(trajectory_bytes(trajectory, nodes))


def load_trajectory(path: Path, nodes: TimeGrid, samples: int, shape: tuple[int, ...]) -> Tensor:
    """States of an earlier run on the same nodes, ``(samples, N + 1, *shape)``.

    Args:
        path: written by :func:`save_trajectory`. nodes: of the run that starts. samples: how many it makes; a file of
            one sample serves them all. shape: of one sample.

    Raises:
        ParaflowkitError: the file cannot be read, or belongs to another grid, shape or number of samples.
    """
    where = f"run.warm_start: {path}"
    try:
        tensors = load_file(path)
        if not {"trajectory", "alpha", "sigma"} <= set(tensors):
            raise SafetensorError(f"it holds {', '.join(sorted(tensors)) or 'nothing'}")
        found, alpha, sigma = (tensors[name] for name in ("trajectory", "alpha", "sigma"))
    except (OSError, SafetensorError) as error:
        raise ParaflowkitError(
            f"{where} is not a trajectory that paraflowkit saved ({error}): make one with --save-trajectory."
        ) from error
    if len(alpha) != nodes.steps + 1:
        raise ParaflowkitError(
            f"{where} has {len(alpha) - 1} steps and this run {nodes.steps}: use the grid and the stepper of the run "
            "that saved it."
        )
    here = torch.stack([nodes.alpha, nodes.sigma])
    if not torch.allclose(torch.stack([alpha, sigma]), here.cpu(), rtol=1e-6, atol=1e-9):
        raise ParaflowkitError(
            f"{where} belongs to other noise levels: use the model, grid and stepper of the run that saved it."
        )
    if tuple(found.shape[2:]) != shape:
        raise ParaflowkitError(f"{where} holds samples of shape {tuple(found.shape[2:])}, this model makes {shape}.")
    if len(found) not in (1, samples):
        raise ParaflowkitError(
            f"{where} holds {len(found)} samples and this run makes {samples}: ask for as many, in the same order, or "
            "save a trajectory of one sample, which serves all."
        )
    if not bool(found.isfinite().all()):
        raise ParaflowkitError(f"{where} holds values that are not finite: use the trajectory of a run that converged.")
    return found.expand(samples, *found.shape[1:])
