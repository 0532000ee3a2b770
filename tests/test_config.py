"""Guards a run's identity: its id, its group, its command, and what is said about a config that
cannot be.
"""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tbn_bench.cli.flags import config_of
from tbn_bench.cli.parser import make_parser
from tbn_bench.config import RunConfig, make
from tbn_bench.records.store import RunStore

ROOT = Path(__file__).parent.parent

FULL = {
    "data": "cifar10", "model": "resnet_cifar(depth=18)", "binarizer": "tbn(alpha='layer', p=4)", "keep": ["fc", "layer1.*"], "seed": 3,
    "epochs": 7, "batch_size": 64, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.05, "precision": "bf16",
}  # fmt: skip

# A value other than the default for every field: a new field enters these tests, or test_every_field_is_listed fails.
OTHER = {
    "data": "cifar10", "model": "vit", "binarizer": "bwn", "task": "another", "keep": ["fc"], "seed": 1, "epochs": 21,
    "batch_size": 127, "optimizer": "adam", "lr": 0.2, "momentum": 0.8, "weight_decay": 0.0, "schedule": "step",
    "warmup_epochs": 1, "step_epochs": 19, "step_gamma": 0.6, "min_lr": 1e-6, "bn_momentum_gamma": 0.5, "label_smoothing": 0.1, "precision": "bf16",
    "init": "single/0123456789ab", "teacher": "cifar10_resnet18/ba9876543210", "schedule_every": "step",
    "batch_norm": "reestimated", "mixup": 0.2, "cutmix": 1.0, "select": "last", "tta": True,
    "clip_norm": 1.0, "fuse": True,
}  # fmt: skip


def parsed(*flags: str) -> RunConfig:
    """The config that `tbn-bench train` makes of these flags."""
    return config_of(make_parser().parse_args(["train", *flags]))


# Identity


def test_run_ids_are_pinned():
    """These ids are in records and reports out there.

    If this fails, finished runs would be trained again: do not re-pin it.
    """
    assert make({}).run_id == "44136fa355b3"
    assert make({"binarizer": "tbn(p=4)", "seed": 2}).run_id == "2a67bf51f130"
    assert make(FULL).run_id == "386dbfcfa708"


def test_committed_records_keep_their_ids():
    """Every config under results/ still hashes to the name of its folder, and its recorded command
    makes it again.
    """
    found = list(RunStore(ROOT / "results").runs())
    assert found
    for record in found:
        assert make(record.config).run_id == record.run_id
        assert parsed(*shlex.split(record.provenance["command"])[2:]).run_id == record.run_id


def test_every_field_is_listed():
    assert set(OTHER) == set(RunConfig.model_fields)


@pytest.mark.parametrize("name", OTHER)
def test_every_field_is_part_of_the_identity(name):
    """Another value is another run; the default, given or not, is the same run.

    The group forgets the seed only.
    """
    plain, other = make({}), make({name: OTHER[name]})
    assert other.run_id != plain.run_id
    assert (other.group_id == plain.group_id) == (name == "seed")
    assert make({name: getattr(plain, name)}).run_id == plain.run_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"seed": 1, "lr": 0.5}, {"lr": 0.5, "seed": 1}),
        ({"binarizer": "tbn(p=4,alpha='layer')"}, {"binarizer": ' tbn( alpha = "layer", p=4 ) '}),
        ({"binarizer": "bwn"}, {"binarizer": "bwn()"}),
        ({"model": "mlp(hidden=[64,32])"}, {"model": "mlp( hidden = [64, 32] )"}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": 0.001}, {"lr": "1e-3"}),
        ({"seed": 7}, {"seed": "7"}),
        ({"keep": "fc,head"}, {"keep": ["fc", "head"]}),
        ({"keep": ""}, {}),
        ({"precision": 32}, {"precision": "32"}),
        ({"momentum": 0.0}, {"momentum": -0.0}),
    ],
)
def test_spelling_and_order_do_not_matter(one, other):
    """Equal configs are one run, however they were written.

    And the id survives the record's JSON.
    """
    assert make(one) == make(other)
    assert make(one).run_id == make(other).run_id
    assert (
        make(json.loads(json.dumps(make(one).model_dump(mode="json")))).run_id == make(one).run_id
    )


def test_group_is_shared_by_seeds_only():
    """Rows of a table average over one group: all seeds of a method, never two methods."""
    specs = ("full_precision", "bwn", "tbn(p=4)", "tbn(p=8)", "tbn(alpha='layer', p=4)")
    groups = {
        spec: {make({"binarizer": spec, "seed": seed}).group_id for seed in range(4)}
        for spec in specs
    }
    assert [len(group) for group in groups.values()] == [1] * len(specs)
    assert len(set.union(*groups.values())) == len(specs)
    assert make({"binarizer": "bwn", "seed": 3}).group_id == make({"binarizer": "bwn"}).run_id


def test_a_config_cannot_change():
    """An id taken before a run is right after it."""
    with pytest.raises(ValueError, match="frozen"):
        make({}).seed = 1


# Faults


@pytest.mark.parametrize(
    ("key", "meant"),
    [("binariser", "binarizer"), ("learning_rate", None), ("epoch", "epochs"), (1, None)],
)
def test_unknown_keys_are_answered_with_the_known(key, meant):
    """The nearest name, where one is near, and all names.

    A key YAML read as a number is no exception.
    """
    with pytest.raises(
        ValueError, match=f"unknown parameter {key!r}.*(K|k)nown: .*weight_decay"
    ) as error:
        make({key: 1})
    assert len(str(error.value).splitlines()) == 1
    assert meant is None or f"did you mean {meant!r}" in str(error.value)


BAD = [
    ("lr", 0), ("lr", -0.1), ("lr", float("nan")), ("lr", "inf"), ("lr", "fast"), ("lr", None), ("epochs", 0), ("epochs", 1.5),
    ("seed", -1), ("seed", "x\ny"), ("batch_size", 0), ("momentum", 1), ("momentum", -0.1), ("weight_decay", -1), ("step_gamma", 0),
    ("label_smoothing", 1), ("optimizer", "sgd("), ("schedule", "cosin"), ("precision", "16"), ("precision", 16), ("warmup_epochs", -1),
    ("model", 5), ("model", "mlp("), ("binarizer", "tbn(4)"), ("binarizer", "tbn(p=4, p=8)"), ("data", ""), ("task", "a.b"),
    ("keep", 5), ("keep", [1]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_one_line_that_names_the_field(name, value):
    """The field first, then what was expected and what was got."""
    with pytest.raises(ValueError) as error:
        make({name: value})
    (line,) = str(error.value).splitlines()
    assert line.startswith((f"{name}: ", f"{name}.0: "))
    assert "got" in line


@pytest.mark.parametrize("name", ["init", "teacher"])
def test_a_pattern_is_said_in_words(name):
    """Nobody reads a regular expression."""
    with pytest.raises(ValueError, match=rf"^{name}: expected a finished run \(SWEEP/RUN_ID\)"):
        make({name: "net.pt"})


def test_all_faults_at_once():
    """Two bad values are two lines, not two tries."""
    with pytest.raises(ValueError) as error:
        make({"lr": -1, "epochs": 0})
    assert [line.split(":")[0] for line in sorted(str(error.value).splitlines())] == [
        "epochs",
        "lr",
    ]


# The command, and the command line


@pytest.mark.parametrize(
    "values",
    [
        {},
        FULL,
        *({name: value} for name, value in OTHER.items()),
        {"lr": 1e-7, "weight_decay": 1e-20},
        {"keep": ["*", "a[0-9].?"]},
        {"model": "from_timm(name='it\"s')"},
        {"model": 'from_timm(name="it\'s")'},
        {"model": r"from_timm(name='a\\b $HOME `id`')"},
        {"keep": ["$HOME", "a\\b", 'say "x"']},
    ],
    ids=str,
)
def test_the_command_makes_the_same_config(values):
    """What a record shows as its command, split as a shell does it, gives the run again."""
    config = make(values)
    program, command, *flags = shlex.split(config.command)
    assert (program, command) == ("tbn-bench", "train")
    assert parsed(*flags) == config


def test_the_command_is_safe_in_a_shell():
    """A real shell expands nothing in it: not a variable, not a pattern that matches a file here."""
    config = make({"keep": ["$HOME", "*"], "model": "from_timm(name='`id`')"})
    script = "tbn-bench() { printf '%s\\0' \"$@\"; }; " + config.command
    out = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert parsed(*out.split("\0")[1:-1]) == config


def test_wandb_agent_spelling():
    """`wandb agent` gives every parameter as --name=value, quotes of its own included where values
    are no strings.
    """
    given = [
        "--binarizer=tbn(alpha='layer', p=4)",
        "--lr=0.003",
        "--seed='3'",
        "--keep=fc,layer1.*",
        "--precision=bf16",
    ]
    rest = {k: FULL[k] for k in ("binarizer", "lr", "seed", "keep", "precision")}
    assert parsed(*given) == make(rest)


def test_a_preset_and_flags_that_win_over_it(tmp_path):
    """--config holds the same names as the flags; a flag wins wherever it stands."""
    preset = tmp_path / "preset.yaml"
    preset.write_text(
        "model: resnet_cifar(depth=18)\nbinarizer: tbn(p=4)\nlr: 1e-3\nprecision: 32\nkeep: [fc, head]\nseed: 1\n"
    )
    wanted = make(
        {
            "model": "resnet_cifar(depth=18)",
            "binarizer": "tbn(p=4)",
            "lr": 1e-3,
            "keep": "fc,head",
            "seed": 1,
        }
    )
    assert parsed("--config", str(preset)) == wanted
    changed = make({**wanted.non_defaults, "seed": 2, "binarizer": "bwn"})
    assert parsed("--seed=2", "--config", str(preset), "--binarizer", "bwn") == changed
    assert parsed("--config", str(preset), "--keep", "") == make(
        {k: v for k, v in wanted.non_defaults.items() if k != "keep"}
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sede: 1\n", "did you mean 'seed'"),
        ("lr: fast\n", "^lr: "),
        ("", "must hold a mapping"),
        ("- seed\n", "must hold a mapping"),
        ("a: [1\n", "preset.yaml is not valid YAML"),
        ("on: 3\n", "unknown parameter True"),
        (b"\xff\xfe\x00", "preset.yaml is not valid YAML"),
        (None, "cannot read .*preset.yaml"),
    ],
)
def test_a_preset_that_cannot_be(tmp_path, content, said):
    """Each fault of a preset is one line that says what and, where the file is at fault, which."""
    preset = tmp_path / "preset.yaml"
    if content is not None:
        preset.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said) as error:
        parsed("--config", str(preset))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "x(" * 4500},
        {"x" * 9000: 1},
        {"schedule": "x" * 9000},
        {"keep": ["x"] * 9000 + [1]},
    ],
)
def test_messages_are_short(values):
    """A long word of one's own is cut in the middle."""
    with pytest.raises(ValueError) as error:
        make(values)
    assert len(str(error.value)) < 1500
