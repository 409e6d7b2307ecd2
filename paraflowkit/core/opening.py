"""The first sweep of a solve that has no estimate yet: states that are all but noise need none."""

from __future__ import annotations

from paraflowkit.core.problem import Problem

#: The largest share of a state's variance that the data may have in it.
DATA = 0.01


def noisy_nodes(problem: Problem) -> int:
    """How many of the first nodes have states that are all but noise, at least 1: that of the given noise.

    Whatever the data prediction, such a state is hardly moved by it, and its own prediction hardly depends on where it
    is: with 0 for a prediction it is near enough for an evaluation.
    """
    if problem.nominal:
        return 1
    alpha, sigma = (v[:-1].double() for v in (problem.nodes.alpha, problem.nodes.sigma))
    data = (alpha * problem.data_std).square()
    return max(1, int((data <= DATA * (data + sigma.square())).long().cumprod(0).sum()))
