"""Time outside the networks of parallel pipeline calls: tiny SD3 and Flux pipelines, per step that a sweep marches.

    python docs/examples/pipeline_cost.py

The tiny pipelines are those of the tests, whose networks have random weights. Beside it stands what the pipeline's own
code takes in a plain call, per step. The calls take turns, and medians are printed.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import platform
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import zoo

from paraflowkit.pipelines import disable, enable

PIPELINES = {"StableDiffusion3Pipeline": "stable_diffusion_3", "FluxPipeline": "flux"}


def plain_rest(pipe: Any, network: torch.nn.Module, call: Any) -> float:
    """Seconds of a plain call outside its denoiser."""
    inside = 0.0
    forward = network.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        out = forward(*args, **kwargs)
        inside += time.perf_counter() - began
        return out

    network.forward = timed
    began = time.perf_counter()
    try:
        call()
    finally:
        network.forward = forward
    return time.perf_counter() - began - inside


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description="Time outside the networks of parallel pipeline calls.")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--repeat", type=int, default=5)
    a = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread")
    found: dict[str, float] = {}
    for name, module in PIPELINES.items():
        importlib.import_module(f"zoo.{module}")
        entry = zoo.ENTRIES[name]
        pipe = entry.build()

        def call(pipe: Any = pipe, entry: Any = entry) -> None:
            wanted = {**entry.call(1), "num_inference_steps": a.steps, "output_type": "latent"}
            pipe(**wanted, generator=torch.Generator().manual_seed(0))

        call()
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(a.repeat):
            theirs.append(plain_rest(pipe, pipe.transformer, call) / a.steps)
            handle = enable(pipe, "paraflow", window=a.window, tolerance=a.tolerance)
            call()
            disable(pipe)
            assert handle.stats is not None
            ours.append(handle.stats.rest_seconds / handle.stats.marched)
        found[name] = 1e3 * median(ours)
        print(
            f"{name}: {found[name]:.2f} ms a marched step, {1e3 * median(theirs):.2f} ms a step of a plain call",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
