"""Discovery of plugins, on two checked-in fake distributions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paraflowkit import registry
from paraflowkit.errors import PluginError

FAKES = Path(__file__).parent / "fake_dist"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FAKES))
    yield
    for name in ("fakeplugins_good", "fakeplugins_broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("fakes")
def test_listing_imports_nothing() -> None:
    assert {"euler", "ddim", "fake-good", "fake-broken"} <= set(registry.names("stepper"))
    assert not {"fakeplugins_good", "fakeplugins_broken"} & set(sys.modules)
    entry = registry.find("stepper", "fake-good")
    assert (entry.distribution, entry.version, entry.group) == ("fakeplugins", "1.0", "paraflowkit.steppers")


@pytest.mark.usefixtures("fakes")
def test_a_good_one_is_loaded_alone() -> None:
    assert registry.get("stepper", "fake-good").__name__ == "Good"
    assert registry.config_class("stepper", "fake-good").__name__ == "GoodConfig"
    assert "fakeplugins_broken" not in sys.modules


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fake-broken", r"'fake-broken' of fakeplugins 1.0 cannot be imported \(RuntimeError: no such compiler\)"),
        ("fake-missing", "cannot be imported .*NoSuchClass"),
        ("fake-alien", "is not a BaseStepper"),
        ("fake-future", "interface version 99, this paraflowkit has version 1"),
        ("fake-clash", "offered by fakeplugins 1.0 and otherplugins 2.5"),
        ("fake-god", "Did you mean 'fake-good'"),
        ("nonsense:Class", "cannot be imported .*nonsense"),
    ],
)
def test_bad_ones_are_refused_with_a_sentence(name: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        registry.get("stepper", name)


@pytest.mark.usefixtures("fakes")
def test_check_reports_each_and_disturbs_none() -> None:
    found = {(s.entry.name, s.entry.distribution): s.status for s in registry.check()}
    assert found["euler", "paraflowkit"] == "ok"
    assert found["fake-good", "fakeplugins"] == "ok"
    assert "no such compiler" in found["fake-broken", "fakeplugins"]
    assert "otherplugins 2.5" in found["fake-clash", "fakeplugins"]
    assert "otherplugins 2.5" in found["fake-clash", "otherplugins"]


@pytest.mark.usefixtures("fakes")
def test_a_class_can_be_named_directly() -> None:
    assert registry.get("stepper", "fakeplugins_good:Good").__name__ == "Good"
    assert registry.config_class("stepper", "fakeplugins_good:Good").__name__ == "GoodConfig"


def test_own_configuration_classes_are_those_of_the_components() -> None:
    """What ``paraflowkit.configs`` promises without torch is what the component itself says."""
    for kind in registry.KINDS:
        for entry in registry.entries(kind):
            assert registry.config_class(kind, entry.name) is getattr(registry.get(kind, entry.name), "config_cls", 0)


def test_unknown_kind() -> None:
    with pytest.raises(PluginError, match="Unknown kind"):
        registry.entries("sampler")


def _install(folder: Path, name: str, lines: str, metadata: bool = True) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(f"[paraflowkit.steppers]\n{lines}\n")
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def test_odd_installations_disturb_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra in the value, a plugin that exits, one listed twice, and a left-over folder without METADATA."""
    (tmp_path / "exits_at_import.py").write_text("raise SystemExit(3)\n")
    for folder in (tmp_path, tmp_path / "again"):
        _install(folder, "odd", "odd-extra = paraflowkit.steppers.euler:Euler [cuda]\nodd-exit = exits_at_import:X")
    _install(tmp_path, "leftover", "odd-leftover = exits_at_import:X\neuler = nowhere:X", metadata=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "again"))
    assert registry.get("stepper", "odd-extra").__name__ == "Euler"
    with pytest.raises(PluginError, match=r"cannot be imported \(SystemExit: 3\)"):
        registry.get("stepper", "odd-exit")
    assert len(registry.check()) > 4
    with pytest.raises(PluginError, match=r"write it as package\.module:Class"):
        registry.get("stepper", ":Euler")
