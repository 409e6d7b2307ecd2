"""A small classifier of 16x16 digits, trained on the held-out images, that judges what the networks draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from paraflowkit.models.digits.adapter import WEIGHTS
from paraflowkit.models.digits.data import CLASSES, SIZE, jitter, load_digits

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class DigitsClassifier(nn.Module):
    """Three convolutions, 64 features, ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * (SIZE // 4) ** 2, 64), nn.ReLU()),
        )
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 10)`` of images ``(n, 1, 16, 16)`` in [-1, 1]."""
        return self.head(self.body(x))

    @classmethod
    def shipped(cls, path: Path | None = None) -> DigitsClassifier:
        """The trained classifier of the package, or of another safetensors file."""
        from safetensors.torch import load_file

        model = cls()
        model.load_state_dict(load_file(path or WEIGHTS / "digits-classifier" / "model.safetensors"))
        return model.eval().requires_grad_(False)


def agreement(images: Tensor, classes: Tensor, judge: DigitsClassifier | None = None) -> float:
    """Share of images ``(n, 1, 16, 16)`` in which the shipped classifier sees the wanted class ``(n,)``."""
    judge = judge or DigitsClassifier.shipped()
    return (judge(images.float().clamp(-1, 1)).argmax(1) == classes).float().mean().item()


def train_classifier(
    fabric: Fabric, folder: Path, steps: int = 2000, seed: int = 0, log: Callable[[str], None] = print
) -> float:
    """Train on the held-out images and save ``model.safetensors``.

    Returns:
        Its accuracy on the generators' training images, which it has never seen.
    """
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    module, opt = fabric.setup(model, optimizer)
    (other, other_labels), (images, labels) = load_digits()
    draw = torch.Generator().manual_seed(seed + fabric.global_rank)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        pick = torch.randint(len(images), (128,), generator=draw)
        batch = jitter(images[pick], draw, degrees=12, shift=1.5, scale=0.12)
        batch = batch + 0.1 * torch.randn(batch.shape, generator=draw)
        logits = module(fabric.to_device(batch))
        opt.zero_grad()
        fabric.backward(functional.cross_entropy(logits, fabric.to_device(labels[pick]), label_smoothing=0.05))
        opt.step()
        schedule.step()
    model = model.cpu().eval()
    with torch.no_grad():
        accuracy = agreement(other, other_labels, model)
    log(f"classifier: accuracy {accuracy:.4f} on {len(other)} images that it has not seen")
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors")
    fabric.barrier()
    return accuracy
