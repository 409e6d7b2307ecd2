"""One line on a pipeline of diffusers: the shipped digits, plainly and parallel in time.

python docs/examples/enable_pipeline.py
python docs/examples/enable_pipeline.py --model digits-vp --tolerance 0
"""

from __future__ import annotations

import argparse

import torch

import paraflowkit
from paraflowkit.models.digits.adapter import WEIGHTS
from paraflowkit.models.digits.pipeline import DigitsPipeline


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description="A pipeline of diffusers, plainly and parallel in time.")
    parser.add_argument("--model", choices=["digits-flow", "digits-vp"], default="digits-flow")
    parser.add_argument("--solver", default="secant")
    parser.add_argument("--tolerance", type=float, default=5e-3)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    a = parser.parse_args(arguments)
    pipe = DigitsPipeline.from_pretrained(WEIGHTS / a.model)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        return pipe([3, 5], num_inference_steps=a.steps, generator=generator, output_type="pt").images

    plain = draw()
    with paraflowkit.enable(pipe, a.solver, window=a.window, tolerance=a.tolerance):
        made = draw()
        stats = pipe.paraflow_stats
    rmse = float((made - plain).square().mean().sqrt())
    print(stats)
    print(f"iterations of each image: {stats.iterations}; difference of the images, which are 0 … 1: RMSE {rmse:.2g}")
    return {"rounds": stats.sequential, "calls": stats.plain_calls, "rmse": rmse}


if __name__ == "__main__":
    main()
