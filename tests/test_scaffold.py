"""``paraflowkit plugin new``: packages that work as they are written, and refusals that say what to do."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import paraflowkit
from paraflowkit import registry
from paraflowkit.cli import app
from paraflowkit.scaffold import Kind, package
from paraflowkit.scaffold.names import LONGEST, ScaffoldError
from paraflowkit.scaffold.package import write

ROOT = Path(__file__).parent.parent
KINDS = list(Kind)


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def environment(**more: str) -> dict[str, str]:
    """That of a user's shell, for a pytest that knows nothing of this one."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", **more}


def run_its_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder / "src")),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_files(kind, tmp_path):
    made = write("my-thing", kind, tmp_path / "new" / "folder")
    assert made.folder == tmp_path / "new" / "folder" / "paraflowkit-my-thing"
    assert files_under(tmp_path / "new" / "folder") == {
        f"paraflowkit-my-thing/{path}"
        for path in (
            "README.md",
            "pyproject.toml",
            "src/paraflowkit_my_thing/__init__.py",
            "src/paraflowkit_my_thing/config.py",
            f"src/paraflowkit_my_thing/{kind.value}.py",
            "tests/test_conformance.py",
        )
    }
    for path in made.folder.rglob("*.*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "$" not in text
            assert text.endswith("\n")
    assert made.run in (made.folder / "README.md").read_text(encoding="utf-8")
    mode, plain = made.folder.stat().st_mode, (tmp_path / "new").stat().st_mode
    assert mode == plain  # not that of a temporary folder, which others may not read


@pytest.mark.parametrize("kind", KINDS)
def test_pyproject(kind, tmp_path):
    tomllib = pytest.importorskip("tomllib")
    folder = write("my-thing", kind, tmp_path).folder
    made = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    major, minor = (int(part) for part in paraflowkit.__version__.split(".")[:2])
    assert made["project"]["name"] == "paraflowkit-my-thing"
    assert made["project"]["dependencies"] == [f"paraflowkit>={major}.{minor},<{major}.{minor + 1}"]
    assert made["project"]["entry-points"] == {
        f"paraflowkit.{kind.value}s": {"my-thing": f"paraflowkit_my_thing.{kind.value}:MyThing"},
        "paraflowkit.configs": {f"{kind.value}.my-thing": "paraflowkit_my_thing.config:MyThingConfig"},
    }
    assert made["build-system"]["build-backend"] == "hatchling.build"
    assert made["tool"]["pytest"]["ini_options"]["filterwarnings"] == ["error"]
    assert made["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/paraflowkit_my_thing"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_component_and_the_line_that_uses_it(kind, tmp_path, monkeypatch):
    made = write(f"probe-{kind.value}", kind, tmp_path)
    name = f"paraflowkit_probe_{kind.value}"
    monkeypatch.syspath_prepend(str(made.folder / "src"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        cls_name = f"Probe{kind.value.capitalize()}"
        cls = getattr(importlib.import_module(f"{name}.{kind.value}"), cls_name)
        config_cls = getattr(importlib.import_module(f"{name}.config"), f"{cls_name}Config")
        assert cls.config_cls is config_cls
        assert registry.get(kind.value, f"{name}.{kind.value}:{cls_name}") is cls
        settings = yaml.safe_load(made.run)[kind.value]
        assert settings.pop("name") == made.name
        config = config_cls.model_validate(settings)
        assert len(settings) == 1
        assert config != config_cls()  # a setting that shows that it is one
        assert cls(config).config is config
    finally:
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]


def test_settings_load_without_torch(tmp_path):
    folders = [write(f"probe-{kind.value}", kind, tmp_path).folder for kind in KINDS]
    imports = "".join(f"import paraflowkit_probe_{kind.value}.config\n" for kind in KINDS)
    subprocess.run(
        [sys.executable, "-c", f"{imports}import sys; sys.exit('torch' in sys.modules)"],
        env=environment(PYTHONPATH=os.pathsep.join(str(folder / "src") for folder in folders)),
        check=True,
    )


@pytest.mark.slow
def test_its_conformance_test_passes(tmp_path):
    """It leaves nothing behind either."""
    folder = write("my-window", Kind.WINDOW, tmp_path).folder
    before = files_under(folder)
    ran = run_its_tests(folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed" in ran.stdout
    assert files_under(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Kind.WINDOW])
def test_every_conformance_test_passes(kind, tmp_path):
    ran = run_its_tests(write(f"my-{kind.value}", kind, tmp_path).folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed" in ran.stdout


BROKEN = {
    Kind.SOLVER: ("[sweep.phi[:, 0]]", "[0.5 * sweep.phi[:, 0]]"),
    Kind.STEPPER: ("b[:, 0] -= b[:, 1]", "b[:, 0] += b[:, 1]"),
    Kind.MODEL: ("else cond[:, None] + 1.0", "else cond[:1, None] + torch.zeros_like(alpha)"),
    Kind.WINDOW: ("window.lo + stride, min", "window.lo, min"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_conformance_test_fails_for_a_broken_component(kind, tmp_path):
    folder = write("my-thing", kind, tmp_path).folder
    source = folder / "src" / "paraflowkit_my_thing" / f"{kind.value}.py"
    sound, wrong = BROKEN[kind]
    text = source.read_text(encoding="utf-8")
    assert text.count(sound) == 1
    source.write_text(text.replace(sound, wrong), encoding="utf-8")
    ran = run_its_tests(folder)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "CheckFailed" in ran.stdout


@pytest.mark.parametrize("name", ["q", "my-thing", "a" * LONGEST])
def test_the_code_is_in_the_style_of_this_project(name, tmp_path):
    """However long the name is; by the package's own rules and by those of this project."""
    if shutil.which("ruff") is None:
        pytest.skip("ruff is not installed")
    for kind in KINDS:
        folder = write(name, kind, tmp_path / kind.value).folder
        for command in (
            ["check"],
            ["format", "--check"],
            ["check", "--config", str(ROOT / "pyproject.toml")],
        ):
            ran = subprocess.run(
                ["ruff", *command, "--no-cache", "."], cwd=folder, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"


@pytest.mark.parametrize(
    ("given", "component", "cls"),
    [
        ("my-solver", "my-solver", "MySolver"),
        ("My_Solver", "my-solver", "MySolver"),
        ("my--solver", "my-solver", "MySolver"),
        ("paraflowkit-my-solver", "my-solver", "MySolver"),
        ("paraflowkit_my_solver", "my-solver", "MySolver"),
        ("dpm-3b", "dpm-3b", "Dpm3b"),
    ],
)
def test_names_are_normalised(given, component, cls, tmp_path):
    made = write(given, Kind.SOLVER, tmp_path)
    assert made.name == component
    assert [path.name for path in tmp_path.iterdir()] == [f"paraflowkit-{component}"]
    module = made.folder / "src" / f"paraflowkit_{component.replace('-', '_')}" / "solver.py"
    assert f"class {cls}(" in module.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ("", Kind.SOLVER, "as in 'my-solver'"),
        ("paraflowkit-", Kind.WINDOW, "as in 'my-window'"),
        ("paraflowkit", Kind.MODEL, "as in 'my-model'"),
        ("3rd-order", Kind.STEPPER, "beginning with a letter, as in 'rd-order'"),
        ("my solver", Kind.SOLVER, "as in 'my-solver'"),
        ("my.solver", Kind.SOLVER, "as in 'my-solver'"),
        ("../evil", Kind.SOLVER, "as in 'evil'"),
        ("-", Kind.SOLVER, "as in 'my-solver'"),
        ("löser", Kind.SOLVER, "use letters, digits and dashes"),
        ("a\nb", Kind.SOLVER, "use letters, digits and dashes"),
        ("q\n", Kind.SOLVER, "use letters, digits and dashes"),
        ("a" * (LONGEST + 1), Kind.SOLVER, f"at most {LONGEST} characters"),
        ("class", Kind.SOLVER, "'class' is a word of Python's own: choose another name, as in 'my-class'"),
        ("none", Kind.SOLVER, "word of Python's own"),
        ("list", Kind.MODEL, "word of Python's own"),
        ("Exception", Kind.MODEL, "word of Python's own"),
        ("sweep", Kind.SOLVER, "would make a class Sweep"),
        ("tensor", Kind.MODEL, "would make a class Tensor"),
        ("solver", Kind.SOLVER, "would make a class SolverConfig"),
        ("component", Kind.STEPPER, "would make a class ComponentConfig"),
        ("time-grid", Kind.STEPPER, "would make a class TimeGrid"),
        (
            "paraflow",
            Kind.SOLVER,
            f"A solver 'paraflow' is already installed, by paraflowkit {paraflowkit.__version__}",
        ),
        ("PARAFLOWKIT-euler", Kind.STEPPER, "A stepper 'euler' is already installed"),
    ],
)
def test_bad_names(given, kind, told, tmp_path):
    with pytest.raises(ScaffoldError) as refused:
        write(given, kind, tmp_path)
    message = str(refused.value)
    assert told in message
    assert "\n" not in message
    assert message.endswith(".")
    assert not list(tmp_path.iterdir())


def test_a_name_of_another_kind_is_free(tmp_path):
    assert write("euler", Kind.SOLVER, tmp_path).folder.is_dir()


def test_an_installed_distribution_is_not_taken_over(tmp_path, monkeypatch):
    """Even under a name of another kind, since pip would replace one with the other."""
    info = tmp_path / "site" / "paraflowkit_taken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: paraflowkit_Taken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[paraflowkit.steppers]\nodd-one = nowhere:X\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(ScaffoldError, match="'paraflowkit-taken' is already installed, with the stepper 'odd-one'"):
        write("taken", Kind.SOLVER, tmp_path)


def test_nothing_is_overwritten(tmp_path):
    target = tmp_path / "paraflowkit-mine"
    target.mkdir()
    made = write("mine", Kind.SOLVER, tmp_path)  # an empty folder is as good as none
    assert made.folder == target
    (target / "README.md").write_text("mine\n")
    before = files_under(tmp_path)
    with pytest.raises(ScaffoldError, match="exists already: remove it, or choose another"):
        write("mine", Kind.WINDOW, tmp_path)
    assert files_under(tmp_path) == before
    assert (target / "README.md").read_text() == "mine\n"
    (tmp_path / "paraflowkit-file").write_text("kept\n")
    with pytest.raises(ScaffoldError, match="exists already"):
        write("file", Kind.WINDOW, tmp_path)
    assert (tmp_path / "paraflowkit-file").read_text() == "kept\n"


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "a-file").write_text("kept\n")
    for output in (tmp_path / "a-file", tmp_path / "a-file" / "deeper"):
        with pytest.raises(ScaffoldError, match=r"^Cannot write .*: choose another folder with --output\.$"):
            write("mine", Kind.SOLVER, output)
    assert files_under(tmp_path) == {"a-file"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may write anywhere")
def test_a_folder_that_is_read_only(tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(ScaffoldError, match="Permission denied"):
        write("mine", Kind.SOLVER, tmp_path / "shut")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(error, tmp_path, monkeypatch):
    written = []
    real = Path.write_text

    def fails_at_third(path: Path, text: str, **options: str) -> int:
        written.append(path)
        if len(written) == 3:
            raise error
        return real(path, text, **options)

    monkeypatch.setattr(package.Path, "write_text", fails_at_third)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ScaffoldError) as raised:
        write("mine", Kind.SOLVER, tmp_path / "new" / "folder")
    assert len(written) == 3
    assert not list(tmp_path.iterdir())
    if isinstance(error, OSError):
        assert "(No space left on device)" in str(raised.value)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["plugin", "new", "my-solver", "--kind", "solver"])
    assert ran.exit_code == 0, ran.output
    assert [line.strip() for line in ran.output.splitlines() if line.startswith("  ")] == [
        "python -m pip install -e './paraflowkit-my-solver[test]'",
        "python -m pytest ./paraflowkit-my-solver",
        "paraflowkit plugins --check",
        "solver: {name: my-solver, slope: 0.9}",
    ]
    again = CliRunner().invoke(app, ["plugin", "new", "my-solver", "--kind", "solver"])
    assert again.exit_code == 2
    assert isinstance(again.exception, SystemExit)
    assert again.output == ("paraflowkit-my-solver exists already: remove it, or choose another --output or name.\n")
    spaced = CliRunner().invoke(app, ["plugin", "new", "w", "--kind", "window", "-o", str(tmp_path / "a b")])
    assert f"pip install -e '{tmp_path}/a b/paraflowkit-w[test]'" in spaced.output.replace("\\", "/")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plugin"], "new"),
        (["plugin", "--help"], "Write a plugin of your own"),
        (["plugin", "new"], "solver, stepper, model"),
        (["plugin", "new", "--help"], "my-solver"),
        (["plugin", "new", "mine"], "Missing option"),
        (["plugin", "new", "mine", "--kind", "sampler"], "is not one of"),
    ],
)
def test_help(arguments, told):
    ran = CliRunner().invoke(app, arguments)
    assert told in ran.output
    assert ran.exception is None or isinstance(ran.exception, SystemExit)


def test_the_command_loads_no_torch(tmp_path):
    code = (
        "import sys\n"
        "from paraflowkit.cli import app\n"
        "app(['plugin', 'new', 'mine', '--kind', 'solver'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "paraflowkit-mine" / "pyproject.toml").is_file()


def test_templates_are_no_code():
    """Neither ruff nor pyright nor pytest takes them for any."""
    templates = Path(package.__file__).parent / "templates"
    assert {path.suffix for path in templates.rglob("*") if path.is_file()} == {".template"}
