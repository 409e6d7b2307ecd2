"""Milliseconds of one network call against its rows, on the shipped flow network: median of interleaved repetitions.

python docs/examples/time_of_rows.py
"""

from __future__ import annotations

import platform
import statistics
import time

import torch

from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow


def main() -> None:
    model = DigitsFlow(DigitsConfig())
    rows = (1, 2, 4, 8, 16, 32, 64, 128)
    seconds: dict[int, list[float]] = {r: [] for r in rows}
    with torch.no_grad():
        for repetition in range(12):
            for r in rows:
                x, t, cond = torch.zeros(r, 1, 16, 16), torch.full((r,), 0.5), torch.zeros(r, dtype=torch.int64)
                started = time.perf_counter()
                model(x, t, cond)
                if repetition > 1:  # the first two warm up
                    seconds[r].append(time.perf_counter() - started)
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    first = statistics.median(seconds[1])
    for r in rows:
        median = statistics.median(seconds[r])
        print(f"{r:4d} rows: {1e3 * median:7.1f} ms, {median / first:5.1f} times one row")


if __name__ == "__main__":
    main()
