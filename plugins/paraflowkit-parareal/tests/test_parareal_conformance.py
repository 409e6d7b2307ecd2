"""The conformance kit of paraflowkit, on parareal as it comes and with settings of one's own."""

from __future__ import annotations

import torch
from paraflowkit.testing import parametrize_with_checks

from paraflowkit_parareal.config import PararealConfig
from paraflowkit_parareal.solver import Parareal

torch.set_num_threads(1)


@parametrize_with_checks(["solver:parareal", Parareal(PararealConfig(blocks=5, tolerance=0.05, norm="sigma"))])
def test_contract(component, check):
    check(component)
