"""Sweep files and presets, mutated: each is a bounded sweep that a launcher could begin, or refused line by line.

python -m tests.fuzz.sweep_files --count 2000 --seed 0
"""

import copy
import random
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tbn_bench import catalog
from tbn_bench.cli.flags import read_preset
from tbn_bench.cli.sweep import precisions
from tbn_bench.config import make
from tbn_bench.sweep import dotted, refusals, search, spec
from tbn_bench.sweep.planner import Planner

from . import bounded

ROOT = Path(__file__).parents[2]
LIMIT_RUNS = 300  # in place of 10,000, so that this bound is often met
LIMIT_LOOKED = 1000
LINES = 60  # of a refusal
BOMB = "a0: &a0 [1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
WORDS = [
    *" \n\t:-?#&*!|>'\"%@`{}[],\0", "  ", "- ", ": ", "? ", "<<: ", "&a ", "*a", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ",
    "!!python/name:os.system ", "---\n", "...\n", "[" * 300, "- " * 300, "{" * 300, "1" + ":1" * 5000, "9" * 5000, "0x" + "f" * 5000, ".nan",
    ".inf", "1e400", "1e-3", "2020-01-01", "~", "true", "é", "\ud7ff", "\ufeff", "x" * 5000, "a," * 5000, "a: 1\n" * 500, "method: custom\n",
    "method: bayes\n", "method: random\n", "run_cap: 3\n", "run_cap: 1000000000\n", "name: a/../b\n", BOMB,
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 1, 3, 10**10, 2**63, 10**400, 0.5, 1e-8, 1e308, -1e308, 1e-320, float("nan"), float("inf"), "", "x", "tbn", "tbn(p=4)",
    "sign", "grid", "random", "bayes", "custom", "-" * 3000, "../x", "a\nb", [], [1], [[1]], ["sign", "tbn"], [1] * 700, {}, {"value": 4},
    {"values": [1, 2]}, {"values": ["sign", "full_precision", "tbn"]}, {"values": list(range(60))}, {"min": 0, "max": 1}, {"min": 0, "max": 10**10},
    {"min": 0.1, "max": 0.2}, {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-8}, {"distribution": "q_uniform", "min": 0, "max": 9, "q": 1},
    {"distribution": "log_uniform_values", "min": 1e-5, "max": 1}, {"distribution": "normal", "mu": 1e308, "sigma": 1e308},
    {"distribution": "q_log_normal", "mu": 700, "sigma": 9}, {"distribution": "beta", "a": 1e-9, "b": 1e9}, {"distribution": "q_beta", "q": 1e-320},
    {"values": [0.1, 0.2], "probabilities": [0.5, 0.5]}, {"parameters": {"p": {"values": [2, 4]}}}, {"name": "val/loss"}, {"name": "val/top1"},
    {"type": "hyperband", "max_iter": 81, "s": 10**9}, {"type": "hyperband", "min_iter": 1, "eta": 1.0000001}, {"engine": "optuna"},
]  # fmt: skip
KEYS = [
    "method", "parameters", "metric", "metrics", "early_terminate", "run_cap", "name", "scheduler", "value", "values", "min", "max", "q",
    "distribution", "probabilities", "seed", "lr", "LR", "binarizer", "binarizer.p", "binarizer.P", "model", "model.depth", "model.x", "data",
    "task", "optimizer", "optimizer.betas", "keep", "precision", "teacher", "epochs", "batch_size", "tta", "x", "", 1, None,
]  # fmt: skip


def _parts(value: Any) -> list[Any]:
    """Every mapping and list in a tree."""
    if not isinstance(value, dict | list):
        return []
    inside = value.values() if isinstance(value, dict) else value
    found = [value]
    for part in inside:
        found += _parts(part)
    return found


def _change(part: Any, rng: random.Random) -> None:
    """Sets, adds or deletes one entry of a mapping or list."""
    value = copy.deepcopy(rng.choice(VALUES))  # a change of it later is no change of VALUES
    here = list(part) if isinstance(part, dict) else list(range(len(part)))
    there = rng.choice(here) if here and rng.random() < 0.6 else None
    if there is None and isinstance(part, dict):
        part[rng.choice(KEYS)] = value
    elif there is None:
        part.append(value)
    elif rng.random() < 0.3:
        del part[there]
    else:
        part[there] = value


def make_text(texts: list[str], rng: random.Random) -> str:
    """A file of the repository with changes in its tree, its text or both."""
    text = rng.choice(texts)
    if rng.random() < 0.7:
        tree = yaml.safe_load(text)
        for _ in range(rng.choice([1, 1, 2, 3])):
            if rng.random() < 0.2 and "parameters" in tree:
                tree |= {
                    "method": rng.choice(["random", "bayes", "custom"]),
                    "run_cap": 3,
                    "metric": {"name": "val/loss"},
                }
            else:
                _change(rng.choice(_parts(tree)), rng)
        text = yaml.safe_dump(tree, sort_keys=rng.random() < 0.5)
    if rng.random() < 0.4:
        text = bounded.mutated(text, texts, WORDS, rng)
    return text


class _Checker:
    def __init__(self, folder: Path):
        self.path = folder / "mutated.yaml"

    def __call__(self, text: str) -> str:
        """What became of a file: refused, preset, listed, searched. Raises whatever breaks a promise."""
        self.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        is_preset = self._is_preset()
        try:
            sweep = spec.load(self.path)
        except ValueError as error:
            bounded.check_message(error, LINES)
            self._check_names_file(str(error))
            return "preset" if is_preset else "refused"
        assert all(
            "\n" not in line and len(line) < bounded.LIMIT_LETTERS for line in sweep.warnings
        )
        precisions(sweep)
        return self._searched(sweep) if sweep.is_search else self._listed(sweep)

    def _check_names_file(self, said: str) -> None:
        nameless = [line for line in said.splitlines() if str(self.path) not in line]
        assert not nameless, f"a line without the file: {nameless[0]}"

    def _is_preset(self) -> bool:
        try:
            config = make(dotted.fold(read_preset(self.path)))
        except ValueError as error:
            bounded.check_message(error, LINES)
            return False
        assert make(config.model_dump(mode="json")).run_id == config.run_id
        return True

    def _listed(self, sweep: spec.SweepSpec) -> str:
        ids = [config.run_id for config in sweep.configs]
        assert len(set(ids)) == len(ids) <= LIMIT_RUNS
        assert ids
        assert [config.run_id for config in spec.load(self.path).configs] == ids
        return "listed"

    def _searched(self, sweep: spec.SweepSpec) -> str:
        """Three trials; a launcher that begins again finds their points."""
        planner = Planner(sweep)
        for _ in range(3):
            try:
                trial = planner.ask()
            except ValueError as error:  # a draw that RunConfig refuses
                bounded.check_message(error, LINES)
                return "refused draw"
            if trial is None:
                break
            point = sweep.point(trial.config)
            assert point is not None, f"no point for {trial.config.command}"
            assert sweep.config(point) == trial.config
            planner.tell(trial.number, "finished", [1.0] * len(sweep.metrics))
        return "searched"


def run(count: int, seed: int) -> dict[str, Any]:
    texts = [
        path.read_text()
        for path in sorted((*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("recipes/*.yaml")))
    ]
    _import_all()
    fewer_runs = mock.patch.object(refusals, "LIMIT_RUNS", LIMIT_RUNS)
    fewer_looked = mock.patch.object(spec, "LIMIT_LOOKED", LIMIT_LOOKED)
    with tempfile.TemporaryDirectory() as folder, fewer_runs, fewer_looked:
        return bounded.fuzz(lambda rng: make_text(texts, rng), _Checker(Path(folder)), count, seed)


def _import_all() -> None:
    """What is imported in the middle of a case would be taken for its memory and steps."""
    for package in dotted.SHELF_OF.values():
        for name in catalog.names(package):
            catalog.load(package, name)
    first = spec.expand(
        {
            "method": "bayes",
            "run_cap": 1,
            "metric": {"name": "val/loss"},
            "parameters": {"lr": {"distribution": "beta"}},
        },
        "s",
    )
    search.suggest(first, [], "0", "tpe")


if __name__ == "__main__":
    sys.exit(bounded.main(run, 400, __doc__.splitlines()[0]))
