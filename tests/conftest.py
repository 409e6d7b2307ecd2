"""Fixtures of the whole suite: one thread, no leaks."""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch

# diffusers and lightning raise deprecation warnings of their own while they are imported; ours are still errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in (
        "diffusers.models.unets.unet_2d",
        "diffusers.schedulers.scheduling_ddim",
        "diffusers.schedulers.scheduling_flow_match_euler_discrete",
        "lightning.fabric",
        "sklearn.datasets",  # sets environment variables of OpenMP
    ):
        importlib.import_module(name)

# Most tests are tiny operations, which several threads only slow down, badly so on a machine that is busy.
torch.set_num_threads(1)

# pytest's own, and what torch.compile leaves for the code that it made.
KEPT = {"PYTEST_CURRENT_TEST", "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"}


@pytest.fixture(autouse=True)
def _leaks_nothing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail a test that leaves an environment variable, a thread, a child process or a file in the working directory."""
    here = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(here)
    environment = {k: v for k, v in os.environ.items() if k not in KEPT}
    threads = set(threading.enumerate())
    yield
    after = {k: v for k, v in os.environ.items() if k not in KEPT}
    assert after == environment, f"{request.node.nodeid} changed the environment"
    # Libraries keep daemon threads of their own (tqdm's monitor); a thread that would keep Python alive is a leak.
    left = [t for t in threading.enumerate() if t not in threads and not t.daemon]
    for thread in left:  # transformers does not wait for the pool that loads its weights, which ends by itself
        thread.join(5)
    left = [t for t in left if t.is_alive()]
    assert not left, f"{request.node.nodeid} left threads: {left}"
    made = os.listdir(here)
    assert not made, f"{request.node.nodeid} left files: {made}"
    if not torch.cuda.is_available():  # convolutions on a GPU left one behind, which is not ours (torch 2.11, an H200)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
