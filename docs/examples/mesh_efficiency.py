"""How much of the ideal speedup processes reach that share the rows of a solve: the shipped network and a heavier one.

    torchrun --nproc-per-node 2 docs/examples/mesh_efficiency.py

The same solve runs on the first process alone and on all together, in turn. Ideal is the time alone over the number of
processes; each has one thread on a CPU, and its own device where there are several.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from paraflowkit import registry
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import make_problem
from paraflowkit.fabric.evaluator import Evaluator
from paraflowkit.fabric.mesh import Mesh, MeshStrategy
from paraflowkit.noise import FlowMatching
from paraflowkit.prediction import Prediction
from paraflowkit.solution import relative_rmse
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid


class Heavy(VelocityModel):
    """A convolutional network of 10 million parameters with random weights, on 3×32×32 states."""

    noise, prediction, shape = FlowMatching(), Prediction.VELOCITY, (3, 32, 32)

    def __init__(self) -> None:
        from diffusers.models.unets.unet_2d import UNet2DModel

        super().__init__()
        torch.manual_seed(0)
        self.unet: Any = UNet2DModel(
            sample_size=32,
            block_out_channels=(64, 128, 192),
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
        )
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return self.unet(x, (t * 1000).float()).sample.to(x.dtype)


@dataclass(frozen=True)
class Case:
    """A model and what is made with it."""

    model: VelocityModel
    steps: int
    window: int
    classes: list[int | None]
    guidance: float


def make(kind: str, name: str, **settings: Any) -> Any:
    return registry.get(kind, name)(registry.config_class(kind, name).model_validate(settings))


def run(case: Case, fabric: Fabric, mesh: Mesh) -> tuple[Tensor, float, float]:
    """Samples, seconds, and milliseconds of gathering a sweep."""
    euler = make("stepper", "euler")
    grid = make_grid(case.model.noise, case.steps)
    evaluator = Evaluator(fabric, case.model, euler.nodes(grid, case.model.noise).t, torch.float32, mesh)
    seeds = list(range(len(case.classes)))
    problem = make_problem(
        case.model, euler, grid, seeds, classes=case.classes, guidance=case.guidance, device=fabric.device,
        evaluate=evaluator,
    )  # fmt: skip
    began = time.perf_counter()
    # A few sweeps of full windows are enough, and the same ones every time.
    solution = solve(
        problem, make("solver", "paraflow", tolerance=5e-3), make("window", "sliding", size=case.window), max_sweeps=6
    )
    seconds = time.perf_counter() - began
    return solution.x, seconds, 1e3 * evaluator.gather_seconds / solution.stats.sweeps


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=["shipped", "heavy"], default=["shipped", "heavy"])
    a = parser.parse_args(arguments)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    fabric = Fabric(accelerator=a.accelerator, devices=here, num_nodes=ranks // here, strategy=MeshStrategy())
    fabric.launch()
    mesh = Mesh.of(fabric)
    cases = {
        "shipped": lambda: Case(make("model", "digits-flow"), 50, 8, [0, 1, 2, 3], 3.0),
        "heavy": lambda: Case(Heavy(), 50, 8, [None, None], 1.0),
    }
    rows: list[dict[str, Any]] = []
    for name in a.networks:
        case = cases[name]()
        alone: list[float] = []
        together: list[float] = []
        gathers: list[float] = []
        error = 0.0
        for turn in range(a.repeat + 1):  # the first turn warms up
            fabric.barrier()
            x, seconds, _ = run(case, fabric, Mesh()) if fabric.is_global_zero else (None, 0.0, 0.0)
            fabric.barrier()
            y, shared, gather = run(case, fabric, mesh)
            if turn and x is not None:
                alone, together, gathers = [*alone, seconds], [*together, shared], [*gathers, gather]
                error = max(error, float(relative_rmse(y, x).max()))
        if fabric.is_global_zero:
            speedup = median(one / many for one, many in zip(alone, together, strict=True))
            rows.append(
                {
                    "network": name,
                    "parameters": sum(p.numel() for p in case.model.parameters()),
                    "ranks": ranks,
                    "seconds_alone": round(median(alone), 3),
                    "speedup": round(speedup, 3),
                    "efficiency": round(speedup / ranks, 3),
                    "gather_ms_a_sweep": round(median(gathers), 2),
                    "rmse": error,
                    "machine": f"{platform.machine()} {fabric.device.type}, torch {torch.__version__}",
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
