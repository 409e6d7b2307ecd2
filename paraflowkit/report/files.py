"""Files of reports."""

from __future__ import annotations

import os
from pathlib import Path

from paraflowkit.errors import ParaflowkitError


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files, each whole or not at all, into a folder that is made if need be.

    Raises:
        ParaflowkitError: one cannot be written; what was there is still there.
    """
    for name, data in files.items():
        new = folder / f".{name}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new.write_bytes(data)
            new.replace(folder / name)
        except OSError as error:
            if folder.is_dir():
                new.unlink(missing_ok=True)
            raise ParaflowkitError(f"{folder / name}: cannot be written: {error.strerror or error}.") from error
