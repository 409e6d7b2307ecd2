"""Rows of network calls: several calls as one, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraflowkit.pipelines.rows import Unbatchable, clone, gather, layout, put, same_bits, scatter, take


def network(hidden_states: Any, timestep: Any, encoder: dict[str, Any], ids: Any, residuals: Any, shapes: Any) -> Any:
    """Each row by itself, a frame a row of residuals; ``ids`` are the same for all."""
    rows = len(hidden_states)
    frames = residuals[0].reshape(rows, -1, *residuals[0].shape[1:]).mean(1)
    sizes = torch.tensor([float(s[0]) for s in shapes])
    factor = timestep.reshape(-1, 1) + sizes.view(-1, 1) + ids.sum() + encoder["pooled"].mean(1, keepdim=True)
    out = hidden_states * factor.view(rows, 1, 1) + frames
    return {"sample": out, "rows": [out.mean((1, 2)), (residuals[0] * 2)]}


def call(branches: int, samples: int, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rows = branches * samples
    g = torch.Generator().manual_seed(seed)
    randn = lambda *s: torch.randn(*s, generator=g)  # noqa: E731
    return (randn(rows, 3, 4),), {
        "timestep": torch.tensor([float(seed)]).expand(rows),
        "encoder": {"pooled": randn(rows, 5)},
        "ids": torch.arange(7.0).view(7, 1),
        "residuals": [randn(rows * 2, 3, 4)],
        "shapes": [(i % samples, 1) for i in range(rows)],
    }


@given(
    branches=st.integers(1, 3),
    samples=st.integers(1, 3),
    picks=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True), min_size=1, max_size=4),
)
def test_calls_made_as_one_give_what_each_gives(branches: int, samples: int, picks: list[list[int]]) -> None:
    units = [sorted({p % samples for p in pick}) for pick in picks]
    trees = [call(branches, samples, k) for k in range(len(units))]
    # The sizes of rows are plain lists as long as the rows, which a call of as many rows as entries must not confuse.
    lay = layout(trees[0], samples, shared={(1, "residuals")} if branches * samples == 1 else ())
    alone = [network(*args, **kwargs) for args, kwargs in trees]
    args, kwargs = gather(lay, list(zip(trees, units, strict=True)))
    parts = scatter(lay, network(*args, **kwargs), alone[0], [len(u) for u in units])
    for before, part, us in zip(alone, parts, units, strict=True):
        blank = {"sample": torch.zeros_like(before["sample"]), "rows": [torch.zeros_like(v) for v in before["rows"]]}
        made = put(lay, blank, part, us)
        for p in range(samples):
            rows = [b * samples + p for b in range(branches)]
            expected = before["sample"][rows] if p in us else torch.zeros(len(rows), 3, 4)
            torch.testing.assert_close(made["sample"][rows], expected)
        torch.testing.assert_close(put(lay, blank, take(lay, before, us), us), made)


def test_lists_of_samples_are_rows() -> None:
    trees = [
        (([torch.full((2, 3), float(k)), torch.full((2, 5), k + 0.5)],), {"t": torch.tensor(1.0 * k)}) for k in (1, 2)
    ]
    lay = layout(trees[0], 2)
    args, kwargs = gather(lay, [(trees[0], [0, 1]), (trees[1], [1])])
    assert [tuple(v.shape) for v in args[0]] == [(2, 3), (2, 5), (2, 5)]
    assert [float(v.flatten()[0]) for v in args[0]] == [1.0, 1.5, 2.5]
    assert kwargs["t"].tolist() == [1.0, 1.0, 2.0]
    out = scatter(lay, [v * 10 for v in args[0]], [v * 10 for v in trees[0][0][0]], [2, 1])
    assert [float(v.flatten()[0]) for v in put(lay, [v * 0 for v in trees[1][0][0]], out[1], [1])] == [0.0, 25.0]


def test_a_call_without_rows_cannot_be_batched() -> None:
    with pytest.raises(Unbatchable, match="no argument with rows"):
        layout(((), {"flag": True}), 1)


def test_an_output_of_another_shape_is_refused() -> None:
    tree = ((torch.zeros(2, 3),), {})
    lay = layout(tree, 2)
    with pytest.raises(Unbatchable, match="shape"):
        scatter(lay, torch.zeros(3, 3), torch.zeros(2, 3), [2, 2])


def test_bits_are_compared_not_values() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits(nan, nan.clone())
    assert same_bits(torch.zeros(2), -torch.zeros(2))  # equal numbers are the same to any network
    assert not same_bits(nan, torch.tensor([float("nan"), 2.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(3))


def test_clones_share_nothing_that_can_be_changed() -> None:
    tree = {"a": [torch.zeros(2), (torch.ones(1), "word")]}
    copy = clone(tree)
    copy["a"][0].add_(1)
    copy["a"].append(1)
    assert float(tree["a"][0].sum()) == 0
    assert len(tree["a"]) == 2


@pytest.mark.parametrize("time", [torch.tensor(7.0), torch.tensor([7.0]), 7.0])
def test_times_of_several_calls_are_where_their_rows_are(time: Any) -> None:
    """A scheduler's times may stay on the CPU: networks move one of them, and not a vector."""
    tree = ((torch.zeros(2, 3, device="meta"),), {"timestep": time})
    lay = layout(tree, 1)
    (rows,), kwargs = gather(lay, [(tree, [0]), (tree, [0])])
    assert rows.shape == (4, 3)
    assert kwargs["timestep"].device == rows.device
    assert len(kwargs["timestep"]) == 4


def test_rows_may_be_lists_of_lists() -> None:
    tree = ((), {"hidden_states": [[torch.ones(3)], [torch.zeros(3)]], "timestep": 1.0})
    _, kwargs = gather(layout(tree, 2), [(tree, [0, 1]), (tree, [1])])
    assert len(kwargs["hidden_states"]) == 3
    assert kwargs["timestep"].tolist() == [1.0] * 3
