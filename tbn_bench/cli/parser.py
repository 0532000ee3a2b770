"""The parser of the whole command line. It suggests the right spelling of a wrong word."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tbn_bench import __version__
from tbn_bench.catalog import did_you_mean
from tbn_bench.cli import (
    allocate,
    bench,
    certify,
    check,
    completion,
    export,
    generate,
    latency,
    mcu,
    pack,
    plan,
    report,
    robustness,
    runs,
    schema,
    shelves,
    sweep,
    train,
    verify,
)
from tbn_bench.records.text import tell

COMMANDS = {
    "train": train,
    "plan": plan,
    "sweep": sweep,
    "latency": latency,
    "bench": bench,
    "export": export,
    "pack": pack,
    "generate": generate,
    "mcu": mcu,
    "list": shelves,
    "check": check,
    "certify": certify,
    "verify": verify,
    "robustness": robustness,
    "allocate": allocate,
    "report": report,
    "runs": runs,
    "completion": completion,
    "schema": schema,
}
_WRONG_FLAGS = "unrecognized arguments: "
_WRONG_COMMAND = "argument COMMAND: invalid choice: "


class Parser(argparse.ArgumentParser):
    """argparse that suggests the right spelling of an unknown flag or command.

    calls: flags that take an argument of their call as a flag too, as --binarizer.p=4.
    """

    calls: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        if message.startswith(_WRONG_FLAGS):
            message = self._with_right_flag(message)
        elif message.startswith(_WRONG_COMMAND):
            message = self._with_right_command(message)
        tell(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)

    def _with_right_flag(self, message: str) -> str:
        words = message.removeprefix(_WRONG_FLAGS).split()
        flags = [word.split("=")[0] for word in words if word.startswith("--")]
        if not flags:
            return message
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        return f"unknown flag {flags[0]}{did_you_mean(flags[0], known)}"

    def _with_right_command(self, message: str) -> str:
        word = message.split("'")[1]
        known: list[str] = []
        for action in self._actions:
            if action.dest in ("command", "action"):
                known += action.choices or []
        return f"unknown command {word!r}{did_you_mean(word, known)}"

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        words = None if args is None else [self._respelled(word) for word in args]
        for word in words or ():
            self._allow_dotted(word.split("=")[0])

        space, rest = super().parse_known_args(words, namespace)
        is_subcommand = " " in self.prog
        if rest and is_subcommand:  # only a subcommand knows its own flags
            self.error(f"{_WRONG_FLAGS}{' '.join(rest)}")
        return space, rest

    def _respelled(self, word: str) -> str:
        """--batch-size for --batch_size, and --per_gpu for --per-gpu: both spellings are right."""
        flag, equals, value = word.partition("=")
        known = self._option_string_actions
        if not flag.startswith("--") or flag in known:
            return word
        body = flag.removeprefix("--")
        for other in (body.replace("-", "_"), body.replace("_", "-")):
            if f"--{other}" in known:
                return f"--{other}{equals}{value}"
        return word

    def _allow_dotted(self, flag: str) -> None:
        """Adds --binarizer.p when --binarizer is a flag whose value is a call."""
        call, dot, _ = flag.partition(".")
        if dot and call in self.calls and flag not in self._option_string_actions:
            self.add_argument(flag)


def make_parser() -> Parser:
    """The parser of `tbn-bench`. `call` of what it parses is the run function of the command."""
    parser = Parser(
        prog="tbn-bench",
        description="Train, compare, time and report binary and sub-bit neural networks.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    for name, command in COMMANDS.items():
        own: Any = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            allow_abbrev=False,
        )
        command.add_arguments(own)
        extra = getattr(command, "EXTRA", "")
        own.set_defaults(call=command.run, parser=own, own_extra=extra)
    return parser
