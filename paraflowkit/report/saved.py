"""A predict run as its folder has it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from paraflowkit.errors import ParaflowkitError

#: What the folder of a run holds from the beginning, and what it holds at the end.
BEGUN, FINISHED = "results.jsonl", "summary.json"


@dataclass(frozen=True)
class SavedRun:
    """A finished run.

    Attributes:
        path: of the folder. rows: as in ``results.jsonl``, in the order of the requests. summary: as in
            ``summary.json``. settings: as in ``config.yaml``.
    """

    path: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    settings: dict[str, Any]

    @classmethod
    def read(cls, path: Path, summary: dict[str, Any] | None = None) -> SavedRun:
        """Read a folder.

        Args:
            path: of the folder. summary: of a run that is about to write it.

        Raises:
            ParaflowkitError: there is no such folder, no run in it, one that is not finished, or one whose files are
                damaged.
        """
        check_folder(path)
        if not (path / BEGUN).is_file():
            raise ParaflowkitError(f"{path}: holds no run: give a folder that 'paraflowkit predict' has written.")
        if summary is None and not (path / FINISHED).is_file():
            raise ParaflowkitError(f"{path}: the run there is not finished{_far(path)}: go on with it by --resume.")
        at = path / BEGUN
        try:
            rows = [json.loads(line) for line in at.read_text().split("\n") if line]
            at = path / "config.yaml"
            settings: Any = yaml.safe_load(at.read_text())
            at = path / FINISHED
            found: Any = json.loads(at.read_text()) if summary is None else summary
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise ParaflowkitError(f"{at}: cannot be read ({reason}): make the run again.") from error
        if not rows or not all(isinstance(row, dict) and "index" in row for row in rows):
            raise ParaflowkitError(f"{path / BEGUN}: these are no rows of a run: make the run again.")
        for at, held in ((path / "config.yaml", settings), (path / FINISHED, found)):
            if not isinstance(held, dict):
                raise ParaflowkitError(f"{at}: this is no mapping: make the run again.")
        return cls(path, rows, found, settings)

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.resolve().name

    @property
    def config(self) -> str:
        """The text of ``config.yaml``."""
        return (self.path / "config.yaml").read_text()

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting by its dotted name."""
        held: Any = self.settings
        for key in name.split("."):
            held = held.get(key) if isinstance(held, dict) else None
        return default if held is None else held

    def image(self, row: dict[str, Any]) -> Image.Image | None:
        """The image of a row, a pixel for each of the sample's; None where none was written."""
        name = row.get("image")
        found = None if name is None else picture(self.path / Path(str(name)).name)
        upscale = int(self.setting("output.upscale", 1))
        if found is None or upscale <= 1 or found.width % upscale or found.height % upscale:
            return found
        return found.resize((found.width // upscale, found.height // upscale), Image.Resampling.NEAREST)


def check_folder(path: Path) -> None:
    """Raise ParaflowkitError for what is no folder."""
    if not path.exists():
        raise ParaflowkitError(f"{path}: there is no such folder.")
    if not path.is_dir():
        raise ParaflowkitError(f"{path}: is a file: give the folder of a run.")


def picture(path: Path) -> Image.Image | None:
    """A picture, or None where there is none that can be shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return image


def shrunk(image: Image.Image, most: int) -> bytes:
    """An image whose longer side has at most so many pixels, as a PNG file."""
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _far(path: Path) -> str:
    """How many samples there are, as far as that can be read."""
    try:
        done = (path / BEGUN).read_text().count("\n")
        return f" ({done} of {len(json.loads((path / 'manifest.json').read_text())['requests'])} samples)"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
