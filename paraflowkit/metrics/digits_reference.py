"""The shipped reference set: the scans that the digit networks are trained on, so that FID needs no scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.files import read_tensors
from paraflowkit.models.digits.data import SIZE, load_digits

FOLDER = Path(__file__).parent / "data" / "digits-reference"
_FILE = "images.safetensors"

_CARD = """# digits-reference

The images that FID, KID, precision and recall of the shipped digit networks compare with: {count} scans, as they are
({bytes} bytes, safetensors: `images` uint8 ({count}, 8, 8) in 0 ... 16, `labels` uint8 ({count}) in 0 ... 9).

- Origin: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
  doi:10.24432/C50P49: its test part of 1797 scans, as scikit-learn bundles it (`sklearn.datasets.load_digits`).
- Licence: Creative Commons Attribution 4.0 International (CC BY 4.0). Changes: the selection below, nothing else.
- Selection: the three quarters of each class that `paraflowkit train-digits` trains the generators on, without the
  random turns, moves and scalings of the training. The classifier whose features are compared has never seen them.
- Use: read at 16x16, bicubic, in [-1, 1], as the generators' training data are. Published FIDs compare with training
  images too; a low FID tells that the sets are alike, and not that the images are new.
- Made anew by `python -m paraflowkit.metrics digits-reference FOLDER`, which needs scikit-learn.
"""


def upsample(scans: Tensor) -> Tensor:
    """Scans ``(n, 8, 8)`` of 0 … 16 as images ``(n, 1, 16, 16)`` in [-1, 1], as the networks are trained on them."""
    small = scans.float()[:, None] / 8 - 1
    return functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(-1, 1)


def digits_images(folder: Path = FOLDER) -> Tensor:
    """The reference images ``(n, 1, 16, 16)`` in [-1, 1].

    Raises:
        ParaflowkitError: the file cannot be read.
    """
    return upsample(read_tensors("metrics.references", folder / _FILE)["images"])


def write_digits_reference(folder: Path) -> None:
    """Write the file and its card.

    Raises:
        ParaflowkitError: scikit-learn, which carries the scans, is not installed.
    """
    from safetensors.torch import save_file

    try:
        (wanted, labels), _ = load_digits()
        from sklearn.datasets import load_digits as read
    except ImportError as error:
        raise ParaflowkitError(str(error)) from error
    raw: Any = read()
    scans = torch.tensor(raw.images, dtype=torch.uint8)
    everything, kept = upsample(scans), list[int]()
    for number, image in enumerate(everything):  # the split keeps the order of the scans
        if len(kept) < len(wanted) and torch.equal(image, wanted[len(kept)]):
            kept.append(number)
    assert len(kept) == len(wanted), "a training image is none of the scans"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    save_file({"images": scans[kept].contiguous(), "labels": labels.to(torch.uint8)}, path)
    (folder / "README.md").write_text(_CARD.format(count=len(kept), bytes=path.stat().st_size))
