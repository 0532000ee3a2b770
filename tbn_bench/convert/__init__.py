"""Functions that convert a network: binarize_ (to train it), pack_ (to deploy it), save, load.

>>> import torch
>>> from tbn_bench.convert import binarize_, load, pack_, save
>>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
>>> plan = binarize_(model, "bwn")
>>> rows = pack_(model)
>>> size = save(model, "net.safetensors")
>>> same = load(torch.nn.Sequential(torch.nn.Linear(64, 32)), "net.safetensors")
>>> x = torch.randn(1, 64)
>>> torch.equal(same(x), model(x))
True
"""

from tbn_bench.convert.advance import advance_, begin_step_
from tbn_bench.convert.binarize import binarize_, binarize_inputs_
from tbn_bench.convert.fuse import FusedRow, describe, fuse_, unfuse_
from tbn_bench.convert.pack import PackRow, dense, pack_
from tbn_bench.convert.plan import Plan, PlanRow
from tbn_bench.convert.saved import load, load_, save, to_artifact
from tbn_bench.layers.packed import implement_

__all__ = [
    "FusedRow",
    "PackRow",
    "Plan",
    "PlanRow",
    "advance_",
    "begin_step_",
    "binarize_",
    "binarize_inputs_",
    "dense",
    "describe",
    "fuse_",
    "implement_",
    "load",
    "load_",
    "pack_",
    "save",
    "to_artifact",
    "unfuse_",
]
