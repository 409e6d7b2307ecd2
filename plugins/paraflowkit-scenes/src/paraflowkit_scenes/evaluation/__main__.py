"""``python -m paraflowkit_scenes.evaluation``: quality over guidance, parallel solvers beside the sequential sampler.

Rows are added to ``rows.jsonl`` in the folder as soon as they are measured, and a row that is there with the same
settings and weights is not measured again: a stopped run goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from paraflowkit.errors import ParaflowkitError

from paraflowkit_scenes.evaluation.cells import SOLVERS, Rows, digest, guidance_cells, solver_cells

WEIGHTS = Path(__file__).parent.parent / "weights"
_NEEDED = ("scenes-sd3/model_index.json", "scenes-detector/model.safetensors", "scenes-clip/config.json")


def _at_least(least: float, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, got {text}")
        return value

    return number


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m paraflowkit_scenes.evaluation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder of rows, samples and pictures")
    what.add_argument("--tables", type=Path, metavar="FOLDER", help="print the Markdown tables of a folder's rows")
    parser.add_argument("--part", choices=["guidance", "solvers", "grid", "all"], default="all")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of scenes-sd3, -detector and -clip")
    few = "held-out captions, evenly spaced; by default all 500 for guidance and 64 for solvers"
    parser.add_argument("--prompts", type=_at_least(2), help=few)
    parser.add_argument("--guidances", type=_at_least(0, float), nargs="+", default=[1.0, 3.0, 5.0, 7.5])
    parser.add_argument("--guidance-steps", type=_at_least(1), default=50, help="N of the part guidance")
    parser.add_argument("--guidance", type=_at_least(0, float), default=3.0, help="of the part solvers")
    parser.add_argument("--steps", type=_at_least(1), nargs="+", default=[25, 50, 75, 100], help="N, of the solvers")
    parser.add_argument("--solvers", choices=SOLVERS, nargs="+", default=list(SOLVERS), metavar="NAME")
    parser.add_argument("--no-exact", action="store_true", help="leave out tolerance 0")
    parser.add_argument("--references", type=_at_least(2), default=2000, help="drawn pictures that FID compares with")
    parser.add_argument("--batch", type=_at_least(1), default=32, help="prompts that are solved together")
    parser.add_argument("--rows", type=_at_least(1), default=128, help="most network rows of one call")
    parser.add_argument("--accelerator", default="auto", help="of Lightning Fabric: cpu, cuda, auto")
    parser.add_argument("--compile", action="store_true", help="compile the network: faster after a minute or two")
    return parser.parse_args(given)


def evaluate(args: argparse.Namespace) -> None:
    """Measure and draw what is asked for.

    Raises:
        ParaflowkitError: weights are missing, or there are no rows to draw.
    """
    missing = [name for name in _NEEDED if not (args.weights / name).is_file()]
    if missing:
        raise ParaflowkitError(
            f"--weights: {args.weights} holds no {missing[0]}: give the folder of scenes-sd3, scenes-detector and "
            "scenes-clip, as the training command makes it."
        )
    from paraflowkit_scenes.evaluation.measures import Measures
    from paraflowkit_scenes.evaluation.run import Evaluation
    from paraflowkit_scenes.evaluation.sampling import Painter
    from paraflowkit_scenes.sample import prompts

    scenes = prompts()
    guidance = guidance_cells(args.guidances, args.guidance_steps, min(args.prompts or len(scenes), len(scenes)))
    count = min(args.prompts or 64, len(scenes))
    solvers = solver_cells(args.solvers, args.steps, args.guidance, count, exact=not args.no_exact)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParaflowkitError(f"--out: cannot make the folder {args.out}: {error.strerror}.") from error
    folder = args.weights / "scenes-sd3"
    painter = Painter(folder, scenes, args.batch, args.rows, args.accelerator, args.compile)
    base = {
        "weights": digest(args.weights),
        "references": args.references,
        "max_sequence_length": painter.model.max_sequence_length,
    }

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    rows = Rows(args.out, base)
    run = Evaluation(rows, painter, scenes, lambda: Measures(args.weights, scenes, args.references), log)
    wanted = [
        *(guidance if args.part in ("guidance", "all") else []),
        *(solvers if args.part in ("solvers", "all") else []),
    ]
    if wanted:
        run.measure(wanted)
    if args.part in ("grid", "all"):
        made = [path for path in (run.grid(guidance), run.solvers(solvers)) if path is not None]
        if not made:
            raise ParaflowkitError(
                f"--part grid: {args.out} has no rows of these settings and weights: run --part guidance or solvers "
                "first."
            )
        for path in made:
            log(f"drew {path}")


def main(given: list[str] | None = None) -> int:
    """Evaluate or print tables; 0 when all is done, 2 for what the user can mend, said in one sentence."""
    args = arguments(given)
    try:
        if args.tables is None:
            evaluate(args)
        else:
            from paraflowkit_scenes.evaluation.tables import tables

            print(tables(args.tables), end="")
    except ParaflowkitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
