"""How a few samples were solved, sweep by sweep, as it is kept in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paraflowkit.errors import ParaflowkitError

#: The file's name in a run's folder.
FILE = "sweeps.safetensors"
_ARRAYS = ("fronts", "ends", "strides", "residuals", "frames", "frame_sweeps")


@dataclass(frozen=True)
class Sweeps:
    """What a solve did to its first samples.

    Attributes:
        facts: plain data: ``solver``, ``stepper``, ``window``, ``tolerance``, ``norm``, and ``labels``, one a sample.
        fronts: int64 ``(sweeps, samples)``, lo of each window ``[lo, hi)`` before the sweep. ends: likewise, hi: the
            node after the last one that the network was evaluated at. strides: likewise, nodes accepted.
        residuals: float32 ``(samples, steps, sweeps)``, root mean square of each state's change in units of the norm,
            which the tolerance is compared with; NaN where the sweep evaluated nothing.
        frames: uint8 ``(frames, samples, height, width, channels)``, clean estimates as small images; no frames where
            samples are no images. frame_sweeps: int64 ``(frames,)``, the sweeps that they follow, counted from 1.
    """

    facts: dict[str, Any]
    fronts: NDArray[np.int64]
    ends: NDArray[np.int64]
    strides: NDArray[np.int64]
    residuals: NDArray[np.float32]
    frames: NDArray[np.uint8]
    frame_sweeps: NDArray[np.int64]

    @property
    def samples(self) -> int:
        """How many samples are kept."""
        return len(self.residuals)

    @property
    def steps(self) -> int:
        """N of the solve."""
        return self.residuals.shape[1]

    @property
    def labels(self) -> list[str]:
        """What each sample is of."""
        return [str(label) for label in self.facts["labels"]]

    def count(self, sample: int) -> int:
        """The sweeps that worked on a sample; it may be finished before others of its batch."""
        worked = (self.strides[:, sample] > 0) | ~np.isnan(self.residuals[sample]).all(0)
        return int(worked.nonzero()[0].max(initial=-1)) + 1

    def accepted(self, sweep: int, sample: int) -> int:
        """Steps accepted after a sweep, counted from 1; none after sweep 0."""
        sweep = min(sweep, len(self.fronts))
        return 0 if sweep < 1 else int(self.fronts[sweep - 1, sample] + self.strides[sweep - 1, sample])

    def to_bytes(self) -> bytes:
        """As a safetensors file; the facts are JSON in its header, under ``facts``."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        return save(arrays, {"facts": json.dumps(self.facts, ensure_ascii=False)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Sweeps:
        """Read what :meth:`to_bytes` made. Raises SafetensorError, ValueError, KeyError or TypeError."""
        arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        notes: Mapping[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
        made = cls(json.loads(notes["facts"]), **{name: arrays[name] for name in _ARRAYS})
        sizes = {value.shape for value in (made.fronts, made.ends, made.strides)}
        if sizes != {(made.residuals.shape[2], made.samples)} or len(made.frames) != len(made.frame_sweeps):
            raise ValueError("its arrays do not belong together")
        if len(made.labels) != made.samples or made.residuals.size == 0:
            raise ValueError("it holds no samples, or no names of them")
        return made

    @classmethod
    def read(cls, folder: Path) -> Sweeps | None:
        """What a run's folder has of it, or None.

        Raises:
            ParaflowkitError: the file cannot be read.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return cls.from_bytes(path.read_bytes())
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ParaflowkitError(
                f"{path}: cannot be read ({error}): remove it to get a report without it, or make the run again."
            ) from error
