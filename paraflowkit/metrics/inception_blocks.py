"""The blocks of FID's Inception-v3 [1], as tables of their branches; names are those of the checkpoint.

[1] Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, section 6 and figures 5 to 7.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Pools of 3x3: at stride 1, the average of what is not padding or the maximum; the maximum at stride 2.
AVERAGE, MAXIMUM, HALVE = "average", "maximum", "halve"

#: A convolution: its name in the checkpoint, channels, kernel, stride. With stride 1 it is padded to keep the size.
_Conv = tuple[str, int, tuple[int, int], int]
#: A branch: convolutions and pools in turn; a pair of convolutions reads the same input, and their outputs are joined.
Branch = Sequence["str | _Conv | tuple[_Conv, _Conv]"]


def _conv(name: str, channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1) -> _Conv:
    return (f"branch{name}", channels, (kernel, kernel) if isinstance(kernel, int) else kernel, stride)


def _block_a(pooled: int) -> list[Branch]:
    return [
        [_conv("1x1", 64)],
        [_conv("5x5_1", 48), _conv("5x5_2", 64, 5)],
        [_conv("3x3dbl_1", 64), _conv("3x3dbl_2", 96, 3), _conv("3x3dbl_3", 96, 3)],
        [AVERAGE, _conv("_pool", pooled)],
    ]


def _block_c(inner: int) -> list[Branch]:
    row, column = (1, 7), (7, 1)
    double = [("_2", inner, column), ("_3", inner, row), ("_4", inner, column), ("_5", 192, row)]
    return [
        [_conv("1x1", 192)],
        [_conv("7x7_1", inner), _conv("7x7_2", inner, row), _conv("7x7_3", 192, column)],
        [_conv("7x7dbl_1", inner), *(_conv(f"7x7dbl{name}", channels, kernel) for name, channels, kernel in double)],
        [AVERAGE, _conv("_pool", 192)],
    ]


def _block_e(pool: str) -> list[Branch]:
    return [
        [_conv("1x1", 320)],
        [_conv("3x3_1", 384), (_conv("3x3_2a", 384, (1, 3)), _conv("3x3_2b", 384, (3, 1)))],
        [
            *(_conv("3x3dbl_1", 448), _conv("3x3dbl_2", 384, 3)),
            (_conv("3x3dbl_3a", 384, (1, 3)), _conv("3x3dbl_3b", 384, (3, 1))),
        ],
        [pool, _conv("_pool", 192)],
    ]


#: The blocks in order, with the checkpoint's names.
BLOCKS: dict[str, list[Branch]] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": [
        [_conv("3x3", 384, 3, 2)],
        [_conv("3x3dbl_1", 64), _conv("3x3dbl_2", 96, 3), _conv("3x3dbl_3", 96, 3, 2)],
        [HALVE],
    ],
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": [
        [_conv("3x3_1", 192), _conv("3x3_2", 320, 3, 2)],
        [
            _conv("7x7x3_1", 192),
            _conv("7x7x3_2", 192, (1, 7)),
            _conv("7x7x3_3", 192, (7, 1)),
            _conv("7x7x3_4", 192, 3, 2),
        ],
        [HALVE],
    ],
    "Mixed_7b": _block_e(AVERAGE),
    "Mixed_7c": _block_e(MAXIMUM),
}


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, channels: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]):
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def pool(kind: str, x: Tensor) -> Tensor:
    """One of the three pools."""
    if kind == AVERAGE:
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return (
        functional.max_pool2d(x, 3, stride=1, padding=1) if kind == MAXIMUM else functional.max_pool2d(x, 3, stride=2)
    )


class Block(nn.Module):
    """Branches over one input, joined by channels."""

    def __init__(self, inputs: int, branches: list[Branch]) -> None:
        super().__init__()
        self.branches = branches
        self.channels = 0
        for branch in branches:
            width = inputs
            for layer in branch:
                if isinstance(layer, str):
                    continue
                several = _several(layer)
                for name, channels, kernel, stride in several:
                    padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2) if stride == 1 else (0, 0)
                    self.add_module(name, Convolution(width, channels, kernel, stride, padding))
                width = sum(channels for _, channels, _, _ in several)
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        for branch in self.branches:
            y = x
            for layer in branch:
                if isinstance(layer, str):
                    y = pool(layer, y)
                else:
                    y = torch.cat([self.get_submodule(name)(y) for name, *_ in _several(layer)], 1)
            made.append(y)
        return torch.cat(made, 1)


def _several(layer: _Conv | tuple[_Conv, _Conv]) -> tuple[_Conv, ...]:
    return (layer,) if len(layer) == 4 else layer
