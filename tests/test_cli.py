"""Guards the command line: help without torch, faults in one line before any training, exit
statuses, the last line of JSON.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tbn_bench import __version__, cli
from tbn_bench.cli import program
from tbn_bench.cli.flags import config_of
from tbn_bench.cli.parser import make_parser
from tbn_bench.config import make
from tbn_bench.records.store import RunStore
from tbn_bench.sweep.local import BUSY

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "train",
    "plan",
    "sweep",
    "latency",
    "bench",
    "export",
    "generate",
    "mcu",
    "pack",
    "report",
    "runs",
    "list",
    "check",
    "certify",
    "verify",
    "robustness",
    "allocate",
    "completion",
    "schema",
)
HEAVY = ("torch", "pytorch_lightning", "wandb", "timm", "pandas", "matplotlib", "scipy")
TINY = ("--data", "digits", "--model", "mlp(hidden=[30])")  # 64-30-10: weights of 1920 and 300

# Runs each command line given as JSON and says what it printed, how it ended, and what had been imported by then.
PROBE = """
import contextlib, io, json, sys
from tbn_bench import cli
from tbn_bench.cli.parser import make_parser
argvs, heavy = json.loads(sys.argv[1])
for argv in argvs:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            code = cli.main(argv)
    except SystemExit as error:
        code = error.code
    print(json.dumps([code, out.getvalue(), [m for m in heavy if m in sys.modules]]))
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call("plan", ...) -> (exit status, stdout, stderr), in an empty folder, so that whatever is
    written shows.
    """
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        try:
            code = cli.main(list(argv))
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())

    return run


def only_line(err, command):
    """The one line of stderr, without the name of the command."""
    (line,) = err.splitlines()
    prefix = f"tbn-bench {command}: error: " if command else "tbn-bench: error: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


# Help


def test_threads_of_a_training_wait_before_a_plugin_loads_torch(monkeypatch):
    """OpenMP reads the variable once; the user's own value is kept."""
    seen = []
    monkeypatch.setattr(
        program, "load_plugins", lambda args: seen.append(os.environ.get("OMP_WAIT_POLICY"))
    )
    monkeypatch.setattr("tbn_bench.cli.train.run", lambda args: None)
    for value in ("", "active"):
        monkeypatch.setenv("OMP_WAIT_POLICY", value)
        if not value:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        cli.main(["train"])
    assert seen == ["passive", "active"]


def test_help_needs_no_torch(tmp_path):
    """--help of the program and of every command, --version and the list of runs are there before
    torch is.
    """
    argvs = [
        ["--help"],
        *([name, "--help"] for name in COMMANDS),
        ["--version"],
        ["runs", "--results", str(tmp_path)],
    ]
    out = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([argvs, HEAVY])],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    answers = [json.loads(line) for line in out.stdout.splitlines()]
    assert [(code, loaded) for code, _, loaded in answers] == [(0, [])] * len(argvs)
    for name, (_, text, _) in zip(COMMANDS, answers[1:], strict=False):
        assert f"usage: tbn-bench {name}" in text
        assert name in answers[0][1]
    assert answers[-2][1].strip() == __version__


def test_every_command_is_tested_for_its_help():
    """A new command enters COMMANDS, or this fails."""
    (choices,) = [action.choices for action in make_parser()._actions if action.dest == "command"]
    assert set(choices) == set(COMMANDS)


@pytest.mark.parametrize("name", ["train", "plan", "latency"])
def test_every_parameter_is_a_flag_with_its_default(call, name):
    """The flags come from RunConfig: nothing can be set in a file only."""
    _, text, _ = call(name, "--help")
    for field in type(make({})).model_fields:
        assert f"--{field} " in text
    assert "(default: tbn" not in text
    assert re.search(r"peak learning\s+rate \(default:\s+0.1\)", text)


# Wrong words: exit status 2, one line


@pytest.mark.parametrize(
    ("argv", "command", "said"),
    [
        (["trian"], "", "did you mean 'train'"),
        (["reprot"], "", "did you mean 'report'"),
        ([], "", "COMMAND"),
        (["train", "--modle", "mlp"], "train", "unknown flag --modle, did you mean '--model'"),
        (["train", "--modle=mlp"], "train", "unknown flag --modle, did you mean '--model'"),
        (["train", "--learning-rate=1"], "train", "unknown flag --learning-rate"),
        (["train", "--epoch", "3"], "train", "did you mean '--epochs'"),
        (["plan", "--results", "x"], "plan", "unknown flag --results"),
        (["sweep", "a.yaml", "--job=2"], "sweep", "did you mean '--jobs'"),
        (["report", "--output", "x"], "report", "did you mean '--out'"),
        (["train", "--dry"], "train", "unknown flag --dry; known: --batch_norm"),
        (["runs", "extra"], "runs", "extra"),
        (["sweep"], "sweep", "FILE"),
        (["sweep", "a.yaml", "--jobs", "two"], "sweep", "--jobs"),
        (["train", "--wandb", "onlin"], "train", "--wandb"),
        (["train", "--lr"], "train", "--lr"),
        (["train", "--resume", "--restart"], "train", "not allowed"),
    ],
    ids=lambda value: (" ".join(value) or "nothing") if isinstance(value, list) else "",
)
def test_wrong_words_are_answered_with_the_right_ones(call, tmp_path, argv, command, said):
    """Nothing is guessed and nothing is done: an abbreviated flag is a wrong one too."""
    code, out, err = call(*argv)
    assert code == 2
    assert out == ""
    assert said in only_line(err, command)
    assert list(tmp_path.iterdir()) == []


def test_the_program_itself_ends_with_the_status():
    """As a process: status 2, one line on stderr, nothing on stdout."""
    out = subprocess.run(
        [sys.executable, "-m", "tbn_bench.cli", "runs", "--result=x"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (out.returncode, out.stdout) == (2, "")
    assert "did you mean '--results'" in only_line(out.stderr, "runs")


# Wrong values: exit status 1, one line, before anything is trained or written


@pytest.mark.parametrize("command", ["train", "plan", "latency"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--binarizer", "tbm(p=4)"], "unknown name 'tbm' in binarizers, did you mean 'tbn'"),
        (
            ["--binarizer", "tbn(p=4, aplha='tile')"],
            "tbn has no option 'aplha', did you mean 'alpha'",
        ),
        (["--binarizer", "tbn(4)"], "binarizer: .*name=value"),
        (["--binarizer", "tbn"], "exactly one of p, tile_length, per_layer"),
        (["--model", "mpl"], "unknown name 'mpl' in models, did you mean 'mlp'"),
        (["--model", "mlp(hiden=[30])"], "did you mean 'hidden'"),
        (["--data", "digit"], "unknown name 'digit' in data, did you mean 'digits'"),
        (
            ["--keep", "head"],
            "keep pattern 'head' matches no weight; the weights are: 1.weight, 3.weight",
        ),
        (["--lr", "fast"], "lr: "),
        (["--epochs", "0"], "epochs: "),
        (["--optimizer", "sdg"], "optimizer: "),
        (["--config", "missing.yaml"], "cannot read missing.yaml"),
        (["--binarizer", "tbn(p=0)"], "p must be a positive integer, got 0"),
        (["--binarizer", "tbn(p=-4)"], "p must be a positive integer, got -4"),
        (["--binarizer", "tbn(p=2.0)"], "p must be a positive integer, got 2.0"),
        (
            ["--binarizer", "tbn(p=7, min_layer_size=1000)"],
            "got p=7 for 1920 weights .layer 1.weight.; use one of ",
        ),
        (
            ["--binarizer", "tbn(per_layer=[1, 7])"],
            "got p=7 for 300 weights .layer 3.weight.; use one of ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_one_line_before_any_work(call, tmp_path, command, flags, said):
    """No traceback, no record, no checkpoint: the folder stays empty."""
    code, out, err = call(command, *TINY, *flags)
    assert code == 1
    assert out == ""
    assert re.search(said, only_line(err, command))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_refused_before_the_run_is_claimed(call, tmp_path):
    """A wrong entry of any kind leaves no record behind."""
    code, _, err = call(
        "train", *TINY, "--task", "image_clasification", "--wandb", "off", "--quiet"
    )
    assert code == 1
    assert "did you mean 'image_classification'" in only_line(err, "train")
    assert list(tmp_path.iterdir()) == []


def test_a_p_that_does_not_divide_names_every_layer_and_what_would_do(call, tmp_path):
    """A line per layer, and the offered values are true: each divides that layer and is accepted
    there.
    """
    code, _, err = call("train", *TINY, "--binarizer", "tbn(p=7, min_layer_size=0)")
    lines = err.splitlines()
    assert (code, len(lines)) == (1, 2)
    offers = []
    for line, layer, weights in zip(lines, ("1.weight", "3.weight"), (1920, 300), strict=True):
        assert f"got p=7 for {weights} weights (layer {layer}); use one of " in line
        offers.append([int(p) for p in line.rpartition("use one of ")[2].split(", ")])
        assert offers[-1]
        assert all(weights % p == 0 for p in offers[-1])
    assert list(tmp_path.iterdir()) == []
    assert (
        call("plan", *TINY, "--binarizer", f"tbn(per_layer={[offer[-1] for offer in offers]})")[0]
        == 0
    )


# What is printed where all is well


def test_plan_shows_each_weight_and_ends_with_json(call, tmp_path):
    """By hand: 1920 weights as 4 tiles of 480 bits and 4 scales of 32, 300 weights at p = 1 with
    one scale; nothing is written.
    """
    code, out, err = call("plan", *TINY, "--binarizer", "tbn(p=4, min_layer_size=1000)")
    assert (code, err) == (0, "")
    first, second = (
        re.search(rf"^{name} .*$", out, re.M).group().split() for name in ("1.weight", "3.weight")
    )
    assert first[1:6] == ["30x64", "1,920", "4", "480", str(480 + 4 * 32)]
    assert second[1:6] == ["10x30", "300", "1", "300", str(300 + 32)]
    assert "below min_layer_size 1,000" in " ".join(second)
    total = re.search(r"^total .*$", out, re.M).group()
    assert total.split()[1:3] == ["2,220", str(608 + 332)]
    last = json.loads(out.splitlines()[-1])
    assert (last["weights"], last["stored_bits_weights"]) == (2220, 608 + 332)
    assert list(tmp_path.iterdir()) == []


def test_plan_takes_a_preset_and_flags(call, tmp_path):
    """--config and a flag over it, through the whole command."""
    (tmp_path / "preset.yaml").write_text(
        "data: digits\nmodel: mlp(hidden=[30])\nbinarizer: tbn(p=4, min_layer_size=0)\n"
    )
    _, tiled, _ = call("plan", "--config", "preset.yaml")
    _, binary, _ = call("plan", "--config", "preset.yaml", "--binarizer", "sign")
    bits = [
        json.loads(out.splitlines()[-1])["bits_per_binarized_weight"] for out in (tiled, binary)
    ]
    assert bits[0] == pytest.approx((480 + 75 + 2 * 4 * 32) / 2220)
    assert bits[1] == 1


def test_train_ends_with_json_and_is_not_done_twice(call, tmp_path):
    """The last line is the summary of the record.

    The same command again returns it and writes nothing.
    """
    argv = [
        "train",
        *TINY,
        "--binarizer",
        "tbn(p=4, min_layer_size=0)",
        "--epochs",
        "1",
        "--wandb",
        "off",
        "--results",
        "r",
    ]
    code, out, _ = call(*argv)
    last = json.loads(out.splitlines()[-1])
    store = RunStore(tmp_path / "r")
    record = store.find(last["run_id"])
    assert (code, last["status"], last["sweep"]) == (0, "finished", "single")
    assert last["test/top1"] == record.summary["test/top1"]
    stamps = {path: path.stat().st_mtime_ns for path in record.path.rglob("*")}
    code, again, _ = call(*argv, "--quiet")
    assert (code, json.loads(again.splitlines()[-1])) == (0, last)
    assert {path: path.stat().st_mtime_ns for path in record.path.rglob("*")} == stamps


def test_runs_lists_the_readable_and_names_the_rest(call, tmp_path):
    """One line per run, an em dash where there is no result.

    What is unreadable goes to stderr with its path.
    """
    store = RunStore(tmp_path)
    for seed in range(4):
        config = make({"seed": seed})
        run = store.claim("s", config.run_id, config.model_dump(mode="json"), {})
        run.finish({"test/top1": 0.875}) if seed else run.fail("diverged", "nan")
    torn, bare = (store.path("s", make({"seed": seed}).run_id) for seed in (2, 3))
    (torn / "run.json").write_text('{"schema_ver')
    (bare / "summary.json").write_text('{"schema_version": 1}')
    code, out, err = call("runs", "--results", str(tmp_path))
    assert code == 0
    assert re.search(
        rf"^{make({}).run_id}  diverged .*— +s  digits  mlp  full_precision  seed 0$", out, re.M
    )
    assert re.search(rf"^{make({'seed': 1}).run_id}  finished .*87.50 %", out, re.M)
    assert str(torn) in err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["unreadable"] >= 1


# Exit statuses


def test_a_busy_run_is_status_75(call, tmp_path):
    """What the sweep looks for: the run is another's, so nothing failed.

    Its record is untouched.
    """
    config = make({"data": "digits", "model": "mlp(hidden=[30])"})
    owner = RunStore(tmp_path / "results").claim("single", config.run_id, {"owner": "other"}, {})
    before = (owner.path / "run.json").read_bytes()
    code, _, err = call("train", *TINY, "--wandb", "off", "--quiet")
    assert code == BUSY == 75
    assert "is being run by another process" in only_line(err, "train")
    assert (owner.path / "run.json").read_bytes() == before
    owner.release()


@pytest.mark.parametrize(
    "argv",
    [["train", *TINY, "--wandb=off", "--quiet"], ["sweep", "sweep.yaml"]],
    ids=["train", "sweep"],
)
def test_results_that_cannot_be_written_are_named(call, tmp_path, argv):
    """A file where the folder must be (root is stopped too): one line with the path and the way
    out.
    """
    (tmp_path / "taken").write_text("")
    (tmp_path / "sweep.yaml").write_text(
        "method: grid\nparameters: {data: {value: digits}, model: {value: 'mlp(hidden=[30])'}}\n"
    )
    code, _, err = call(*argv, "--results", "taken")
    assert code == 1
    line = only_line(err, argv[0])
    assert "taken" in line
    assert "--results" in line


def test_ctrl_c_is_status_130(call, monkeypatch):
    """One line that says the command can be given again.

    No traceback, and no JSON that could be taken for a result.
    """

    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.runs, "run", stopped)
    code, out, err = call("runs")
    assert (code, out) == (130, "")
    assert "interrupted; the same command goes on" in err
    assert len(err.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capfd):
    """As in `tbn-bench list | head -1`: status 141, and not a word."""
    monkeypatch.setattr(program, "emit", closed)
    monkeypatch.setattr(program, "hush", lambda: None)
    assert cli.main(["list", "tasks"]) == 141
    assert capfd.readouterr().err == ""


def closed(_):
    raise BrokenPipeError


def test_failed_runs_of_a_sweep_are_status_1(call, monkeypatch):
    """The JSON is printed all the same, so that a script learns which."""
    monkeypatch.setattr(cli.sweep, "run", lambda _: {"failed": 1, "failed_ids": ["abc"]})
    code, out, _ = call("sweep", "x.yaml")
    assert (code, json.loads(out)) == (1, {"failed": 1, "failed_ids": ["abc"]})


# Processors without bfloat16


@pytest.mark.parametrize(
    ("capability", "precision", "said"),
    [("AVX2", "bf16", 1), ("AVX512", "bf16", 0), ("AVX2", "32", 0)],
)
def test_emulated_bfloat16_is_announced(call, monkeypatch, tmp_path, capability, precision, said):
    """A sweep file made for AVX-512 takes 17 times as long on AVX2: the dry run says so, for grids
    and for searches.
    """
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("tbn_bench.experiment.precision._features", set)
    for method in ("grid", "bayes"):
        sweep = {
            "method": method,
            "metric": {"name": "val/top1", "goal": "maximize"},
            "parameters": {
                "data": {"value": "digits"},
                "precision": {"value": precision},
                "lr": {"values": [0.1, 0.2]},
            },
        }
        if method == "bayes":
            sweep["run_cap"] = 2
        (tmp_path / "s.yaml").write_text(json.dumps(sweep))
        code, _, err = call("sweep", "s.yaml", "--dry-run")
        assert code == 0
        assert (
            err.count("warning: precision=bf16: this processor (AVX2) has no bfloat16 units")
            == said
        )


@pytest.mark.parametrize(
    "flags",
    [
        ("--model", "mlp(hidden=5)"), ("--model", "resnet_cifar(depth='x')"), ("--binarizer", "tbn(per_layer=5)"),
        ("--binarizer", "tbn(p={[]: 1})"), ("--data", "smoke(of=5)"), ("--model", "mlp(hidden=[-5])"), ("--model", "mlp(hidden=[0])"),
        ("--model", "mlp(hidden=[1.5])"), ("--model", "vit(patch=0)"), ("--data", "synthetic(in_shape=[])"), ("--model", "vit(heads=0)"),
        ("--task", "image_classification(config=1)"), ("--seed", "9" * 30), ("--optimizer", "adam(betas=[])"), ("--data", "synthetic(num_classes=0)"),
    ],
    ids=lambda flags: flags[1],
)  # fmt: skip
def test_options_that_cannot_be_are_one_line(call, flags):
    """No traceback, whatever an option is."""
    code, out, err = call("plan", *flags)
    assert (code, out) == (1, "")
    assert only_line(err, "plan")


def config(*flags):
    return config_of(make_parser().parse_args(["train", *flags]))


def test_flags_have_both_spellings():
    """An underscore and a dash mean the same, for settings and for flags of execution."""
    assert config("--batch-size", "32") == config("--batch_size=32") == make({"batch_size": 32})
    parse = make_parser().parse_args
    assert parse(["sweep", "x.yaml", "--per_gpu", "2"]).per_gpu == 2


def test_keep_takes_several_patterns():
    """Separated by spaces or by commas."""
    expected = make({"keep": ("conv1", "fc")})
    assert config("--keep", "conv1", "fc") == config("--keep=conv1,fc") == expected


def test_words_of_other_tools_are_understood(capsys):
    """They are no flags here, and the error names the one that is meant."""
    with pytest.raises(SystemExit):
        make_parser().parse_args(["train", "--learning_rate=0.1"])
    assert "did you mean '--lr'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown parameter 'learning_rate', did you mean 'lr'"):
        make({"learning_rate": 0.1})


def test_runs_of_no_folder_are_an_error(tmp_path, capsys):
    """A wrong --results is not an empty list."""
    for action in ([], ["list"], ["verify"]):
        assert cli.main(["runs", *action, f"--results={tmp_path / 'no'}"]) == 1
        assert "no folder" in capsys.readouterr().err
