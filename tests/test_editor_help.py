"""Shells complete what the parser knows, and editors check files by schemas of the same models."""

import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tbn_bench import cli, yaml_file
from tbn_bench.cli.completion import commands
from tbn_bench.cli.parser import COMMANDS, make_parser
from tbn_bench.sweep import json_schema

ROOT = Path(__file__).parents[1]


def script(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


IN_BASH = """{script}
COMP_WORDS=({typed}); COMP_CWORD={last}; _tbn_bench; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
IN_ZSH = """autoload -Uz compinit; compinit -u -D
{script}
setopt ksharrays shwordsplit  # as zsh has them in functions of bash
COMP_WORDS=({typed}); COMP_CWORD={last}; _tbn_bench; print -l -- "${{COMPREPLY[@]}}"
"""
IN_FISH = """{script}
complete -C "{line}"
"""
SHELLS = {
    "bash": (["bash", "-c"], IN_BASH),
    "zsh": (["zsh", "-fc"], IN_ZSH),
    "fish": (["fish", "--no-config", "-c"], IN_FISH),
}


def completed(shell, script, *words):
    """What the shell itself offers for the last word; zsh leaves out the unfitting ones later."""
    command, form = SHELLS[shell]
    typed = " ".join(f"'{word}'" for word in ("tbn-bench", *words))
    line = " ".join(("tbn-bench", *words))
    program = form.format(script=script, typed=typed, last=len(words), line=line)
    done = subprocess.run([*command, program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    offers = [offer.partition("\t")[0] for offer in done.stdout.splitlines()]
    return [offer for offer in offers if shell != "zsh" or offer.startswith(words[-1])]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_flags_and_choices(shell, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    made = script(shell, capsys)
    assert set(completed(shell, made, "")) >= set(COMMANDS)
    assert sorted(completed(shell, made, "train", "--bat")) == ["--batch_norm", "--batch_size"]
    assert completed(shell, made, "train", "--epochs", "3", "--device", "cu") == ["cuda"]
    assert completed(shell, made, "runs", "com") == ["compare"]
    assert "--limit" in completed(shell, made, "runs", "list", "--")
    assert "binarizers" in completed(shell, made, "list", "")
    assert "binarizers" not in completed(shell, made, "runs", "list", "")
    assert completed(shell, made, "completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_value_is_completed_after_an_equals_sign(shell, capsys):
    """bash makes three words of it."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    made = script(shell, capsys)
    if shell == "bash":
        assert completed(shell, made, "train", "--device", "=", "cu") == ["cuda"]
        assert set(completed(shell, made, "train", "--device", "=")) == {"cpu", "cuda"}
    else:
        assert completed(shell, made, "train", "--device=cu") == ["--device=cuda"]


def test_every_command_is_in_every_script(capsys):
    keys = [command.key for command in commands(make_parser()) if command.words]
    assert "runs compare" in keys
    for shell in ("bash", "zsh", "fish"):
        made = script(shell, capsys)
        assert all(key.split()[-1] in made for key in keys)
        assert not made.rstrip().endswith("}") or shell == "fish"


def test_a_schema_is_the_last_line(capsys):
    for kind in ("sweep", "preset"):
        assert cli.main(["schema", kind]) == 0
        jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_committed_sweeps_fit_the_schema(path):
    jsonschema.validate(yaml_file.read(path), json_schema.sweep())


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").glob("**/*.yaml")), ids=lambda path: path.stem
)
def test_committed_presets_fit_the_schema(path):
    jsonschema.validate(yaml_file.read(path), json_schema.preset())


@pytest.mark.parametrize(
    "change",
    [
        {"methd": "grid"},
        {"method": "gird"},
        {"parameters": {"learning_rate": {"value": 1}}},
        {"parameters": {"lr": {"vals": [1]}}},
        {"parameters": {"lr": {"distribution": "unifrom", "min": 0, "max": 1}}},
        {"parameters": {}},
    ],
)
def test_a_slip_in_a_sweep_file_is_found(change):
    good = {"method": "grid", "parameters": {"lr": {"values": [0.1]}, "binarizer.p": {"value": 4}}}
    jsonschema.validate(good, json_schema.sweep())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | change, json_schema.sweep())


@pytest.mark.parametrize("change", [{"learning_rate": 1}, {"epochs": 0}, {"schedule": "cosin"}])
def test_a_slip_in_a_preset_is_found(change):
    good = {"epochs": 2, "keep": "conv1 fc", "binarizer.p": 4, "precision": 32}
    jsonschema.validate(good, json_schema.preset())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | change, json_schema.preset())
