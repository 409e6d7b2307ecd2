"""What a predict run reports: rows and summary."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from paraflowkit import __version__
from paraflowkit.config import RunConfig
from paraflowkit.core.model import VelocityModel
from paraflowkit.fabric.part import Part
from paraflowkit.requests import Request
from paraflowkit.solution import Result, Solution, Stats, relative_rmse


def is_image(sample: Tensor) -> bool:
    """Whether a sample ``(c, h, w)`` can be shown."""
    return sample.ndim == 3 and sample.shape[0] in (1, 3)


def sample_rows(
    first: int,
    batch: Sequence[Request],
    solution: Solution,
    plain: Solution | None,
    std: float,
    shown: tuple[Tensor, Tensor | None],
) -> list[dict[str, Any]]:
    """One dictionary a sample: request, result, cost and, beside a sequential solution, the error.

    ``rmse`` is relative to the data's standard deviation; ``psnr`` is in decibels for images in the range [-1, 1].

    Args:
        shown: the decoded samples of the solution, and of ``plain``.
    """
    rows: list[dict[str, Any]] = []
    for i, request in enumerate(batch):
        row: dict[str, Any] = {
            "index": first + i,
            "class": request.class_id,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "guidance": request.guidance,
            "result": solution.results[i].name.lower(),
            "message": solution.results[i].value,
            "iterations": int(solution.stats.sample_iterations[i]),
            "evaluations": int(solution.stats.evaluations[i]),
        }
        if plain is not None:
            ours, theirs = solution.x[i : i + 1].cpu(), plain.x[i : i + 1].cpu()
            row["rmse"] = float(relative_rmse(ours, theirs, std))
            row["max_difference"] = float((ours - theirs).abs().max())
            if shown[1] is not None and is_image(shown[0][i]):
                ours, theirs = shown[0][i : i + 1].cpu(), shown[1][i : i + 1].cpu()
                same = torch.equal(ours.clamp(-1, 1), theirs.clamp(-1, 1))
                psnr = peak_signal_noise_ratio(ours.clamp(-1, 1).double(), theirs.clamp(-1, 1).double(), data_range=2.0)
                row["psnr"] = None if same else float(psnr)
            row["sequential_iterations"] = int(plain.stats.sample_iterations[i])
            row["sequential_evaluations"] = int(plain.stats.evaluations[i])
        rows.append(row)
    return rows


@dataclass
class Summary:
    """Totals of a run; ``sequential`` is None without ``compare``.

    Attributes:
        iterations, evaluations: mean of a sample. calls: network calls. sweeps: of all solves.
        seconds, model_seconds: of all solves. gather_seconds: of those, see :class:`~paraflowkit.solution.Stats`.
        compile_seconds: of all solves, the sequential ones and what warmed up for them included; seconds of the
            sequential solves are without.
        rmse, worst_rmse: mean and largest relative RMSE to the sequential samples. psnr: the smallest, in decibels;
            None where all images are equal or there are none. data_std: of the data, which relative errors are
            divided by. machine: what the figures were measured on.
    """

    samples: int = 0
    failed: int = 0
    iterations: float = 0.0
    evaluations: float = 0.0
    calls: int = 0
    sweeps: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    gather_seconds: float = 0.0
    compile_seconds: float = 0.0
    sequential: dict[str, float] | None = None
    rmse: float | None = None
    worst_rmse: float | None = None
    psnr: float | None = None
    data_std: float | None = None
    machine: dict[str, Any] = field(default_factory=dict[str, Any])
    stats: list[Stats] = field(default_factory=list[Stats])

    @classmethod
    def start(cls, model: VelocityModel, config: RunConfig, device: torch.device) -> Summary:
        """An empty summary that knows the machine."""
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        return cls(
            data_std=model.data_std,
            machine={
                "device": gpu or f"{platform.machine()} CPU",
                "threads": torch.get_num_threads(),
                "cores": os.cpu_count(),
                "platform": platform.platform(),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "paraflowkit": __version__,
                "parameters": sum(p.numel() for p in model.parameters()),
                "dtype": config.run.dtype,
            },
        )

    def add(self, part: Part) -> None:
        """Take in a batch."""
        rows, stats = part.rows, part.stats
        old, new = self.samples, len(rows)
        total = old + new

        def mean(before: float, key: str) -> float:
            return (before * old + sum(row[key] for row in rows)) / total

        self.iterations, self.evaluations = mean(self.iterations, "iterations"), mean(self.evaluations, "evaluations")
        self.failed += sum(not Result[row["result"].upper()].ok for row in rows)
        for name in ("calls", "sweeps", "seconds", "model_seconds", "gather_seconds", "compile_seconds"):
            setattr(self, name, getattr(self, name) + getattr(stats, name))
        self.stats.append(stats)
        if part.sequential:
            names = ("iterations", "evaluations", "calls", "seconds", "compile_seconds")
            s = self.sequential or dict.fromkeys(names, 0.0)
            s["iterations"] = mean(s["iterations"], "sequential_iterations")
            s["evaluations"] = mean(s["evaluations"], "sequential_evaluations")
            for name in names[2:]:
                s[name] += part.sequential[name]
            self.compile_seconds += part.sequential["compile_seconds"]
            self.sequential = s
            self.rmse = mean(self.rmse or 0.0, "rmse")
            self.worst_rmse = max(self.worst_rmse or 0.0, *(row["rmse"] for row in rows))
            shown = [row["psnr"] for row in rows if row.get("psnr") is not None]
            if shown:
                self.psnr = min(shown) if self.psnr is None else min(self.psnr, *shown)
        self.samples = total

    @property
    def rest_share(self) -> float | None:
        """Share of the parallel seconds, compilation left out, that was spent outside the network."""
        return (self.seconds - self.model_seconds) / self.steady_seconds if self.seconds else None

    @property
    def steady_seconds(self) -> float:
        """The parallel seconds without compilation, which later runs of a process do not pay again."""
        return self.seconds - self.compile_seconds + (self.sequential or {}).get("compile_seconds", 0.0)

    @property
    def speedup(self) -> float | None:
        """Sequential seconds over parallel seconds, without compilation."""
        return None if self.sequential is None else self.sequential["seconds"] / self.steady_seconds

    def verdict(self) -> str | None:
        """In one sentence: was the parallel solve faster here, and why?"""
        if self.sequential is None or self.speedup is None:
            return None
        calls = self.sequential["iterations"] / self.iterations
        work = self.evaluations / self.sequential["evaluations"]
        if 0.95 < self.speedup < 1.05:
            return (
                f"As fast here as the sequential sampler, within 5 %: {calls:.1f} times fewer sequential calls, for "
                f"{work:.1f} times the evaluations."
            )
        if self.speedup >= 1:
            return (
                f"Faster here: {calls:.1f} times fewer sequential calls made the samples in "
                f"1/{self.speedup:.2f} of the sequential time, for {work:.1f} times the evaluations."
            )
        return (
            f"Slower here by a factor {1 / self.speedup:.2f}: {calls:.1f} times fewer sequential calls, but "
            f"{work:.1f} times the evaluations, and a call on this device takes longer the more rows it has. "
            "Several devices, or one with room left at this batch, turn fewer calls into less time."
        )

    @classmethod
    def read(cls, path: Path) -> Summary:
        """What :meth:`to_dict` wrote, without the per-sweep figures."""
        values = json.loads(path.read_text())
        # A figure that the version which wrote it did not have keeps its default.
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the per-sweep figures."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "stats"}
        values["speedup"], values["verdict"] = self.speedup, self.verdict()
        values["rest_share"], values["steady_seconds"] = self.rest_share, self.steady_seconds
        return values
