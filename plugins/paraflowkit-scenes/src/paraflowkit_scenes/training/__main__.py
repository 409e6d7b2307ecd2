"""``python -m paraflowkit_scenes.training``: train everything that this package ships, one network after the other.

What is finished is kept, and a stopped run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from paraflowkit_scenes.training import clip, detector, flow, vae
from paraflowkit_scenes.training.assemble import assemble
from paraflowkit_scenes.training.loop import Settings, Stopped, seconds_of

STAGES: dict[str, Settings] = {
    "vae": vae.SETTINGS,
    "detector": detector.SETTINGS,
    "clip": clip.SETTINGS,
    "flow": flow.SETTINGS,
    "refine": flow.REFINE,
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m paraflowkit_scenes.training", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/scenes-training"), help="folder of states and results")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what to train, in order")
    parser.add_argument("--steps", type=int, help="optimiser steps of each stage instead of its own number")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="pause after so many minutes")
    parser.add_argument("--compile", action="store_true", help="compile the flow's network: faster after two minutes")
    parser.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed"),
        default="32-true",
        help="of the flow's network, in Lightning Fabric's terms; bf16-mixed is faster where the device has bfloat16",
    )
    parser.add_argument("--accelerator", default="auto", help="of Lightning Fabric: cpu, cuda, auto")
    parser.add_argument("--devices", default="1", help="of Lightning Fabric: how many devices")
    return parser.parse_args(given)


def machine(fabric: Any) -> str:
    """What the training ran on, for the model card."""
    if fabric.device.type == "cuda":
        return f"{fabric.world_size} x {torch.cuda.get_device_name(fabric.device)}"
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


def main(given: list[str] | None = None) -> int:
    """Train; returns 0 when everything asked for is finished, 3 when the time was up first."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from lightning.fabric import Fabric

    args = arguments(given)
    fabric = Fabric(accelerator=args.accelerator, devices=args.devices, precision=args.precision)
    fabric.launch()
    until = time.monotonic() + 60 * args.minutes

    def stage(
        name: str,
        train: Callable[..., Any],
        save: Callable[[Any, Path, dict[str, Any]], None],
        precision: str = "32-true",
    ) -> None:
        done = args.out / name / "done"
        settings = STAGES[name] if args.steps is None else replace(STAGES[name], steps=args.steps)
        if name not in args.stages:
            return
        if (done / "training.json").exists():
            fabric.print(f"{name}: finished already, in {done}")
            return
        left = until - time.monotonic()
        options = {"log": lambda line: fabric.print(f"{name}: {line}", flush=True), "stop_after": left}
        made = train(fabric, folder=args.out / name, settings=settings, **options)
        minutes = round(seconds_of(args.out / name) / 60, 1)
        notes = {**asdict(settings), "precision": precision, "minutes": minutes, "on": machine(fabric)}
        if fabric.is_global_zero:
            save(made, done, notes)
            (done / "training.json").write_text(json.dumps(notes, indent=2) + "\n")
        fabric.barrier()

    def save_painter(painter: flow.Painter, done: Path, _: dict[str, Any]) -> None:
        for part in flow.PARTS:
            getattr(painter, part).save_pretrained(done / part)

    def train_flow(fabric: Fabric, **options: Any) -> flow.Painter:
        folder = args.out / "vae" / "done"
        if not (folder / "config.json").exists():
            raise SystemExit(f"{folder}: no trained autoencoder there. Give the stage vae as well, or its --out.")
        autoencoder = AutoencoderKL.from_pretrained(folder, local_files_only=True)
        autoencoder = fabric.to_device(autoencoder.eval().requires_grad_(False))
        return flow.train(fabric, autoencoder, compiled=args.compile, **options)

    def refine_flow(fabric: Fabric, **options: Any) -> flow.Painter:
        start = args.out / "flow" / "done"
        if not (start / "training.json").exists():
            raise SystemExit(f"{start}: no trained flow there. Give the stage flow as well, or its --out.")
        return train_flow(fabric, start=start, **options)

    try:
        stage("vae", vae.train, lambda made, done, _: made.save_pretrained(done))
        stage("detector", detector.train, lambda made, done, notes: made.save_pretrained(done, notes))
        stage("clip", clip.train, lambda made, done, _: clip.save(made, done))
        stage("flow", train_flow, save_painter, args.precision)
        stage("refine", refine_flow, save_painter, args.precision)
    except Stopped as why:
        fabric.print(str(why))
        return 3
    if fabric.is_global_zero and all((args.out / name / "done" / "training.json").exists() for name in STAGES):
        assemble(args.out, args.out / "weights")
        fabric.print(f"all networks are in {args.out / 'weights'}, as the package ships them")
    return 0


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    raise SystemExit(main())
