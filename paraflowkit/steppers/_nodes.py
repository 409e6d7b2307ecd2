"""What steppers ask of their nodes, in one sentence each."""

from __future__ import annotations

from paraflowkit.grid import TimeGrid


def need_noise(nodes: TimeGrid, name: str) -> None:
    """Raise ValueError where a node but the last has no noise. name: of the stepper, for the message."""
    if bool((nodes.sigma[:-1] <= 0).any()):
        raise ValueError(f"{name} needs noise at every node but the last: end the grid where sigma reaches 0.")


def need_data(nodes: TimeGrid, name: str) -> None:
    """Raise ValueError where a node has no data, so that sigma / alpha is infinite."""
    if bool((nodes.alpha <= 0).any()):
        other = "dpm-solver" if nodes.levels.dalpha is None else "flow-heun or dpm-solver"
        raise ValueError(
            f"{name} steps in sigma / alpha, which is infinite at the start of this grid: use {other}, or list "
            "grid.sigmas that begin where there is some data."
        )


def need_steps(nodes: TimeGrid, name: str) -> None:
    """Raise ValueError where two nodes but the last two have one noise level: differences would be divided by 0."""
    if bool((nodes.ratio[:-1].diff() >= 0).any()):
        raise ValueError(f"{name} needs noise levels that fall from node to node: drop those that repeat.")
