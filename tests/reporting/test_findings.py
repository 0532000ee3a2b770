"""The sentence at the top of a report claims no more than the intervals show."""

import dataclasses

import pytest

from tbn_bench.reporting import findings, tiling
from tbn_bench.reporting.findings import NOT_SHOWN, ONE_SEED, OUTSIDE, WITHIN
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.stats import t_interval

FULL = [0.980, 0.981, 0.979]


def group(spec: str, values: list[float], stored_bytes: float, score: str = "top1") -> Group:
    return Group(
        sweep="s",
        group_id=spec,
        data="digits",
        model="mlp",
        binarizer=spec,
        label=findings.names.method(spec),
        track="W1A32",
        score=score,
        results={score: t_interval(values)},
        run_ids=[],
        unfinished=[],
        first={"stored_bytes": stored_bytes, "epochs": 3, "test_samples": 1000},
        by_seed=dict(enumerate(values)),
    )


@pytest.fixture
def compared(monkeypatch):
    """(groups) -> the panel of their comparison with full precision."""

    def of(*others: Group, full: Group | None = None) -> list[findings.Compared]:
        found = [full or group("full_precision", FULL, 3200), *others]
        monkeypatch.setattr(findings, "groups", lambda records: found)
        monkeypatch.setattr(findings, "_short", lambda records, members: "")
        return findings.compared(None)

    return of


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        ([0.975, 0.977, 0.972], WITHIN),  # -0.53 +- 0.52 points
        ([0.970, 0.985, 0.960], NOT_SHOWN),  # the mean is within the margin, the interval is not
        ([0.900, 0.905, 0.902], OUTSIDE),
        ([0.980], ONE_SEED),
        ([0.970, 0.971, 0.969], NOT_SHOWN),  # equal differences have no spread to judge by
    ],
)
def test_a_verdict_needs_the_whole_interval(compared, values, tag):
    (panel,) = compared(group("tbn(p=4)", values, 100))
    assert panel.findings[0].tag == tag


def test_the_sentence_names_the_smallest_network_within_the_margin(compared):
    near = [0.9755, 0.977, 0.972]
    found = compared(
        group("bwn", near, 400), group("tbn(p=4)", near, 100), group("tbn(p=8)", [0.9] * 3, 50)
    )
    sentence = findings.sentence(found)
    assert sentence.startswith("TBN-4 on MLP stays within 2 points of full precision with 1/32")


def test_one_seed_is_never_a_result(compared):
    sentence = findings.sentence(compared(group("tbn(p=4)", [0.985], 100)))
    assert sentence.startswith("No smaller network is shown to stay within 2 points")
    assert (
        "TBN-4 on MLP with 1/32 of the bytes (+0.50 points, one seed, too few to decide)"
        in sentence
    )


def test_a_control_is_no_result(compared):
    control = group("repeated_filters(p=4)", [0.985, 0.990, 0.983], 100)
    assert findings.sentence(compared(control)) == (
        "No smaller network is shown to stay within 2 points of full precision."
    )


def test_differences_of_errors_keep_their_sign(compared):
    """An MSE that is lower by 0.01 reads -0.01, and is better."""
    full = group("full_precision", [0.1, 0.11], 3200, "mse")
    (panel,) = compared(group("bwn", [0.09, 0.101], 100, "mse"), full=full)
    (finding,) = panel.findings
    assert finding.text.startswith("\u22120.0095")
    assert finding.difference > 0
    assert panel.margin == pytest.approx(0.0105)


def test_a_search_is_left_out(compared):
    """Two configurations of one method: nothing says which one is meant."""
    one = group("tbn(p=4)", FULL, 100)
    other = dataclasses.replace(one, group_id="other")
    assert compared(one, other) == []


def test_an_undertrained_network_gives_no_conclusion(compared, monkeypatch):
    found = compared(group("tbn(p=4)", FULL, 100))
    short = [dataclasses.replace(panel, short="Undertrained: 70 % in 3 epochs.") for panel in found]
    assert findings.sentence(short).endswith("No conclusion about smaller networks.")


def test_tiling_is_compared_with_binary_weights(monkeypatch):
    """Within the margin of BWN on one data set, not on the other; FP32 plays no part."""
    near = [0.9755, 0.977, 0.972]
    far = [0.9, 0.91, 0.89]
    members = []
    for data, values in (("digits", near), ("mnist", far)):
        for g in (group("bwn", FULL, 400), group("tbn(p=4)", values, 100)):
            members.append(dataclasses.replace(g, data=data))
    monkeypatch.setattr(findings, "groups", lambda records: members)
    monkeypatch.setattr(findings, "_short", lambda records, members: "")
    said = tiling.answers(None)
    assert [(a.data, a.answer) for a in said] == [("Digits", tiling.KEEPS_UP), ("MNIST", tiling.NO)]
    end = "Keeps up with BWN on Digits, where no narrower BWN was run."
    assert tiling.headline(said) == f"No on MNIST. {end}"
    two = [dataclasses.replace(g, by_seed={0: FULL[0], 1: FULL[1]}) for g in members]
    monkeypatch.setattr(findings, "groups", lambda records: two)
    assert tiling.headline(tiling.answers(None)) == "Too few seeds on 2 more."


@pytest.mark.parametrize(
    ("values", "size", "answer"),
    [
        ([0.9655, 0.966, 0.962], 100, tiling.YES),
        ([0.9755, 0.976, 0.973], 100, tiling.NOT_BETTER),
        ([0.9855, 0.988, 0.982], 100, tiling.NARROWER),
        ([0.9855, 0.988, 0.982], 110, tiling.KEEPS_UP),  # more bytes: no rival
    ],
)
def test_a_tiled_network_must_beat_a_narrower_one_of_no_more_bytes(compared, values, size, answer):
    """With the interval of their differences, paired by seed; means alone decide nothing."""
    (panel,) = compared(group("tbn(p=4)", [0.9755, 0.977, 0.972], 100))
    (tiled,) = panel.findings
    share = tiled.bytes_share * size / 100
    small = dataclasses.replace(tiled, bytes_share=share, group=group("bwn", values, size))
    assert tiling.answer("Digits", [dataclasses.replace(panel, narrower=[small])]).answer == answer


def test_layouts_other_than_the_papers_do_not_answer_for_it(monkeypatch):
    members = [group("bwn", FULL, 400), group("tbn(p=4, copies='hadamard')", FULL, 100)]
    monkeypatch.setattr(findings, "groups", lambda records: members)
    monkeypatch.setattr(findings, "_short", lambda records, members: "")
    assert tiling.answers(None) == []


def test_without_a_common_seed_nothing_is_paired(compared):
    other = dataclasses.replace(group("tbn(p=4)", FULL, 100), by_seed={7: 0.98, 8: 0.97})
    (panel,) = compared(other)
    (finding,) = panel.findings
    assert (finding.n, finding.half, finding.tag) == (0, None, findings.NO_PAIR)
