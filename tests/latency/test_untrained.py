"""Guards the suites of timm's networks: which networks they time, and with which threshold."""

import pytest

from tbn_bench.experiment import build
from tbn_bench.latency import networks, untrained


@pytest.mark.parametrize("name", untrained.MODELS)
def test_configs_build_with_the_papers_threshold(name):
    """Large layers are tiled, those under 64,000 weights are binary; images are 224 x 224."""
    config = untrained.configs(name)[0]
    experiment = build.sketch(config)
    assert experiment.data.in_shape == (3, 224, 224)
    tiled = [row for row in experiment.plan.rows if row.p > 1]
    assert tiled
    assert all(row.p == 4 and row.numel >= 64_000 for row in tiled)


def test_a_suite_has_a_record_per_p(monkeypatch, tmp_path):
    """Batch sizes and the choice of few peers reach every case."""
    seen = []

    def case(config, *rest):
        seen.append((config.binarizer, *rest))
        return {"cases": [config.binarizer]}

    monkeypatch.setattr(networks, "case", case)
    found = untrained.suite("resnet50", tmp_path, "cpu", 1, [1], few=True)
    assert found["cases"] == ["tbn(p=4)", "tbn(p=8)"]
    assert seen[0] == ("tbn(p=4)", tmp_path, "cpu", 1, [1], True)
