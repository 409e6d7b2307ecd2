"""The Inception-v3 of the FID [1, 2], with weights from a local file.

FID is defined by one set of weights, those of the TensorFlow graph of 2015-12-05, and by what that graph does otherwise
than the published network: its average pools do not count the padding, the last block pools by the maximum, and images
are resized by TensorFlow 1's bilinear rule.

[1] Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016. [2] Heusel et al., GANs
Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS 2017.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.features import ImageFeatures
from paraflowkit.metrics.files import read_tensors
from paraflowkit.metrics.inception_blocks import BLOCKS, HALVE, Block, Convolution, pool

_SIZE = 299


def _axis(length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper pixel and the weight of the upper one, of each of the 299 pixels of an axis.

    TensorFlow 1 puts pixel i at i · length / 299: it knows neither half pixels nor a filter against aliasing.
    """
    at = torch.arange(_SIZE, dtype=torch.float32, device=device) * (length / _SIZE)
    low = at.floor().long().clamp(max=length - 1)
    return low, (low + 1).clamp(max=length - 1), at - low


def resize(x: Tensor) -> Tensor:
    """Images ``(n, c, h, w)`` at 299x299."""
    low, high, weight = _axis(x.shape[2], x.device)
    x = torch.lerp(x[:, :, low], x[:, :, high], weight[:, None])
    low, high, weight = _axis(x.shape[3], x.device)
    return torch.lerp(x[..., low], x[..., high], weight)


class Inception(ImageFeatures):
    """The 2048 features behind the last pool of FID's Inception-v3; without a file its weights are random.

    Images are seen as their PNG files would hold them, in 256 levels; grey ones as three equal channels.
    """

    name = "inception"
    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, (3, 3), 2, (0, 0))
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3), 1, (0, 0))
        self.Conv2d_2b_3x3 = Convolution(32, 64, (3, 3), 1, (1, 1))
        self.Conv2d_3b_1x1 = Convolution(64, 80, (1, 1), 1, (0, 0))
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3), 1, (0, 0))
        width = 192
        for name, branches in BLOCKS.items():
            block = Block(width, branches)
            self.add_module(name, block)
            width = block.channels

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"the features inception see images (n, 1 or 3, h, w), and these are {tuple(images.shape)}"
            )
        levels = ((images.double().clamp(-1, 1) + 1) * 127.5).round().float().expand(-1, 3, -1, -1)
        x = (resize(levels) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(pool(HALVE, x)))
        x = pool(HALVE, x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3)).double()

    @classmethod
    def from_file(cls, path: Path) -> Inception:
        """The network with the weights of a ``.safetensors`` file that names them as pt_inception-2015-12-05 does.

        Raises:
            ParaflowkitError: the file is missing, damaged, incomplete or another network's.
        """
        where = f"metrics.features: {path}"
        how = "the page Metrics of the documentation says how the file is made from pt_inception-2015-12-05."
        if not path.is_file():
            raise ParaflowkitError(f"{where}: there is no such file; it wants the weights of FID's Inception-v3: {how}")
        given = read_tensors("metrics.features", path)
        head = given.get("fc.weight")
        if any(name.startswith("AuxLogits.") for name in given) or (head is not None and head.shape[0] == 1000):
            raise ParaflowkitError(f"{where} holds torchvision's Inception-v3, and its features are not FID's: {how}")
        with torch.device("meta"):  # no random weights are drawn
            network = cls()
        wanted = {k: v.shape for k, v in network.state_dict().items() if not k.endswith(".num_batches_tracked")}
        wrong = [name for name, shape in wanted.items() if name not in given or given[name].shape != shape]
        if wrong:
            raise ParaflowkitError(
                f"{where} does not hold FID's Inception-v3, as {len(wrong)} of its {len(wanted)} tensors are missing "
                f"or of another shape, such as {wrong[0]}: {how}"
            )
        weights = {name: given[name].float() for name in wanted}
        if not all(value.isfinite().all() for value in weights.values()):
            raise ParaflowkitError(f"{where} holds weights that are not finite: {how}")
        counts = {k: torch.zeros((), dtype=torch.int64) for k in network.state_dict() if k not in wanted}
        network.load_state_dict({**weights, **counts}, assign=True)
        return network.eval().requires_grad_(False)
