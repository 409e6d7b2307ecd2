"""Reading of ``.safetensors`` files, with every mishap in one sentence."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from paraflowkit.errors import ParaflowkitError


def _refuse(setting: str, path: Path, error: Exception) -> ParaflowkitError:
    return ParaflowkitError(f"{setting}: {path} cannot be read as a .safetensors file ({error}).")


def read_tensors(setting: str, path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Args:
        setting: dotted name of the setting that names the file, for messages.

    Raises:
        ParaflowkitError: the file is missing, unreadable, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError) as error:
        raise _refuse(setting, path, error) from error


def read_note(setting: str, path: Path) -> dict[str, str]:
    """The text that the file carries beside its tensors.

    Raises:
        ParaflowkitError: as :func:`read_tensors`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _refuse(setting, path, error) from error
