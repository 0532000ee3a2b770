"""Shared fixtures: fixed seeds, one thread (two test machines must agree)."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)
