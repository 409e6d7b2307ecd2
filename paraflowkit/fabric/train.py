"""``paraflowkit train-digits``: the three shipped networks, measured and described."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from paraflowkit.core.problem import make_problem
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow, DigitsVP
from paraflowkit.models.digits.classifier import DigitsClassifier, agreement, train_classifier
from paraflowkit.models.digits.train import TrainSettings, train
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import SequentialConfig
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.spacing import make_grid
from paraflowkit.steppers.configs import DDIMConfig, EulerConfig
from paraflowkit.steppers.ddim import DDIM
from paraflowkit.steppers.euler import Euler
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding

_CARD = """# {title}

{what}

- Data: scikit-learn's 8x8 digits (UCI optical recognition of handwritten digits, test part, 1797 scans), upsampled to
  16x16 (bicubic) and scaled to [-1, 1]; {images} images, the other quarter of each class held out. Light random turns,
  moves and scalings.
- Training: {training}
- Measured: {measured}
- Weights: safetensors, float32, {parameters} parameters. Made anew by `paraflowkit train-digits --output FOLDER`.
- Use: demonstrations and tests of samplers. It draws small digits and nothing else.
"""


def measure(folder: Path, process: str, judge: DigitsClassifier, guidance: float = 3.0, each: int = 50) -> float:
    """Share of ``each`` samples a class, 50 sequential steps, in which the classifier sees the wanted class."""
    model = (DigitsFlow if process == "flow" else DigitsVP)(DigitsConfig(folder=str(folder)))
    stepper: BaseStepper[Any] = Euler(EulerConfig()) if process == "flow" else DDIM(DDIMConfig(eta=0.0))
    classes = [digit for digit in range(10) for _ in range(each)]
    problem = make_problem(
        model,
        stepper,
        make_grid(model.noise, 50),
        [10_000 + i for i in range(len(classes))],
        classes=list(classes),
        guidance=guidance,
    )
    made = solve(problem, Sequential(SequentialConfig()), Sliding(SlidingConfig(size=1)), max_rows=256)
    return agreement(made.x, torch.tensor(classes), judge)


def describe(folder: Path, classifier_accuracy: float) -> dict[str, float]:
    """Measure the generators in ``folder`` and write the model cards of all three networks."""
    judge = DigitsClassifier.shipped(folder / "digits-classifier" / "model.safetensors")
    found: dict[str, float] = {"classifier": classifier_accuracy}
    for process in ("flow", "vp"):
        home = folder / f"digits-{process}"
        note = json.loads((home / "training.json").read_text())
        found[process] = measure(home, process, judge)
        model = (DigitsFlow if process == "flow" else DigitsVP)(DigitsConfig(folder=str(home)))
        kind = "flow-matching (velocity)" if process == "flow" else "VP noise-prediction (1000 DDPM steps)"
        card = _CARD.format(
            title=home.name,
            what=f"Class-conditional {kind} U-Net of 16x16 digits in diffusers' folder format.\n"
            "Class 10 is the null class.",
            images=note["images"],
            training=f"{note['steps']} steps of {note['batch']} images, AdamW, peak learning rate "
            f"{note['learning_rate']:g}, cosine decay, weight average {note['ema']:g}, labels dropped with probability "
            f"{note['drop']:g}, seed {note['seed']}; final loss {note['final_loss']:.4f}.",
            measured=f"the shipped classifier sees the wanted class in {found[process]:.1%} of 500 samples "
            "(50 sequential steps, guidance 3).",
            parameters=sum(p.numel() for p in model.parameters()),
        )
        (home / "README.md").write_text(card)
    card = _CARD.format(
        title="digits-classifier",
        what="A convolutional classifier of 16x16 digits that judges the generators, trained on what they never saw.",
        images="445 held-out",
        training="AdamW, one-cycle learning rate, random turns, moves, scalings and noise.",
        measured=f"accuracy {classifier_accuracy:.2%} on the generators' training images, which it has not seen.",
        parameters=sum(p.numel() for p in judge.parameters()),
    )
    (folder / "digits-classifier" / "README.md").write_text(card)
    return found


def train_all(folder: Path, *, steps: int, classifier_steps: int, seed: int, accelerator: str) -> dict[str, float]:
    """Train both generators and the classifier on one device, measure them and write the cards.

    Returns:
        Accuracy of the classifier and agreement of each generator.

    Raises:
        ParaflowkitError: scikit-learn is missing, or the folder already holds networks.
    """
    if (folder / "digits-flow").exists():
        raise ParaflowkitError(f"{folder} already holds networks: choose another --output.")
    fabric = Fabric(accelerator=accelerator, devices=1)
    fabric.launch()
    started = time.monotonic()
    try:
        accuracy = train_classifier(fabric, folder / "digits-classifier", steps=classifier_steps, seed=seed)
        for process in ("flow", "vp"):
            settings = TrainSettings(process=process, steps=steps, seed=seed)
            train(fabric, settings, folder / f"digits-{process}", log=lambda line: print(line, flush=True))
    except ImportError as error:
        raise ParaflowkitError(str(error)) from error
    found = describe(folder, accuracy)
    for name, share in found.items():
        print(f"{name}: {share:.1%}")
    print(f"{time.monotonic() - started:.0f} s; written to {folder}")
    return found
