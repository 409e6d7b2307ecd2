"""The conformance kit of paraflowkit, on CHORDS as it comes and with settings of one's own."""

from __future__ import annotations

import torch
from paraflowkit.testing import parametrize_with_checks

from paraflowkit_chords.config import ChordsConfig
from paraflowkit_chords.solver import Chords

torch.set_num_threads(1)


@parametrize_with_checks(["solver:chords", Chords(ChordsConfig(starts=[0, 2, 4], tolerance=0.05, norm="sigma"))])
def test_contract(component, check):
    check(component)
