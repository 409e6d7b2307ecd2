"""Writes the package of a new plugin."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import paraflowkit
from paraflowkit.scaffold import Kind
from paraflowkit.scaffold.names import ScaffoldError, make_names


@dataclass(frozen=True)
class _Words:
    """What the shared files say about a kind: the component in a few words, and a setting with another value."""

    summary: str
    setting: str
    value: str


_WORDS = {
    Kind.SOLVER: _Words("a parallel solver between Jacobi and Picard", "slope", "0.9"),
    Kind.STEPPER: _Words("a stepper between Euler and Adams-Bashforth", "extrapolation", "0.5"),
    Kind.MODEL: _Words("a class-conditional Gaussian, with exact predictions", "spread", "0.1"),
    Kind.WINDOW: _Words("a sliding window that doubles its length at first", "first", "1"),
}


@dataclass(frozen=True)
class Written:
    """A package that was written.

    Attributes:
        folder: where it is. kind, name: of its component. run: the line of a run file that uses it.
    """

    folder: Path
    kind: Kind
    name: str
    run: str

    def next_steps(self) -> str:
        """What to type next, for the terminal."""
        # pip takes a bare word for a name on PyPI, so a path is told apart by a separator.
        path = str(self.folder) if self.folder.is_absolute() else f"./{self.folder.as_posix()}"
        return "\n".join(
            (
                f"Wrote {path}, a package with a working {self.kind.value}. Next:",
                "",
                f"  python -m pip install -e {shlex.quote(path + '[test]')}",
                f"  python -m pytest {shlex.quote(path)}",
                "  paraflowkit plugins --check",
                "",
                "A run file uses it with the line",
                "",
                f"  {self.run}",
            )
        )


def write(name: str, kind: Kind, output: Path) -> Written:
    """Write a package with a working component, its conformance test and a README.

    Args:
        name: of the component, see :func:`~paraflowkit.scaffold.names.make_names`. kind: of component.
        output: the folder that receives ``paraflowkit-NAME``; it is made if need be.

    Returns:
        Where it is and how it is used. Either the whole package is there or nothing is.

    Raises:
        ScaffoldError: the name will not do, the folder is not empty, or it cannot be written.
    """
    code = {module: _template(f"{kind.value}/{module}.py") for module in ("config", kind.value)}
    names = make_names(name, kind.value, _imported(*(template.template for template in code.values())))
    words = _WORDS[kind]
    run = f"{kind.value}: {{name: {names.component}, {words.setting}: {words.value}}}"
    fill = {
        "component": names.component,
        "distribution": names.distribution,
        "package": names.package,
        "cls": names.class_name,
        "kind": kind.value,
        "summary": words.summary,
        "setting": words.setting,
        "value": words.value,
        "run": run,
        "requirement": _requirement(paraflowkit.__version__),
    }
    source = f"src/{names.package}"
    package = {
        "pyproject.toml": _template("common/pyproject.toml"),
        "README.md": _template("common/README.md"),
        f"{source}/__init__.py": _template("common/__init__.py"),
        **{f"{source}/{module}.py": template for module, template in code.items()},
        "tests/test_conformance.py": _template("common/test_conformance.py"),
    }
    folder = output / names.distribution
    _write_all(folder, {path: template.substitute(fill) for path, template in package.items()})
    return Written(folder, kind, names.component, run)


def _template(path: str) -> Template:
    return Template((files("paraflowkit.scaffold") / "templates" / f"{path}.template").read_text(encoding="utf-8"))


def _imported(*sources: str) -> frozenset[str]:
    """The names that modules import."""
    lines = re.findall(r"^(?:from \S+ )?import (.+)$", "\n".join(sources), re.MULTILINE)
    return frozenset(word.strip() for line in lines for word in line.split(","))


def _requirement(version: str) -> str:
    """The releases of paraflowkit that share this one's interfaces."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"paraflowkit>={major}.{minor},<{major}.{minor + 1}"


def _write_all(folder: Path, texts: dict[str, str]) -> None:
    """Write the files into a hidden sibling of the folder, which then takes its name: all of them or none."""
    missing = [parent for parent in folder.parents if not parent.exists()]  # the innermost first
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ScaffoldError(f"{folder} exists already: remove it, or choose another --output or name.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        for path, text in texts.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8", newline="\n")
        if folder.exists():
            folder.rmdir()  # empty, as was seen above; Windows renames to no existing folder
        part.rename(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            why = error.strerror or str(error)
            raise ScaffoldError(f"Cannot write {folder} ({why}): choose another folder with --output.") from error
        raise
