"""tbn-bench completion: a script by which a shell completes commands, flags and their choices."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

HELP = "print a completion script for bash, zsh or fish"
PROGRAM = "tbn-bench"
SHELLS = ("bash", "zsh", "fish")
_TYPED_IN_FISH = """function __tbn_bench_typed
    set -l typed (commandline -opc)
    set -l last (math 1 + (count $argv))
    test "$typed[2..$last]" = "$argv"
end
"""
_UNSAFE = str.maketrans("", "", "'\"`$\\")  # letters that a shell would read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> None:
    """Prints the script alone: eval "$(tbn-bench completion bash)"."""
    from tbn_bench.cli.parser import make_parser

    found = list(commands(make_parser()))
    script = _fish(found) if args.shell == "fish" else _bash(found)
    if args.shell == "zsh":
        script = f"autoload -U +X bashcompinit && bashcompinit\n{script}"
    sys.stdout.write(script)


@dataclass(frozen=True)
class Command:
    """words: after the program's name. below: commands that may follow. flags: flag -> choices."""

    words: tuple[str, ...]
    below: dict[str, str] = field(default_factory=dict)
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return " ".join(self.words)


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command of a parser and of its subparsers, the top one first."""
    found = Command(words)
    inner: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner |= action.choices
            for choice in action._choices_actions:
                about = _first_line(choice.help)
                found.below[choice.dest] = about
        elif action.help != argparse.SUPPRESS:
            _add_flags(found, action)
    yield found
    for name, below in inner.items():
        yield from commands(below, (*words, name))


def _add_flags(command: Command, action: argparse.Action) -> None:
    known = action.choices or ()
    choices = tuple(map(str, known))
    about = _first_line(action.help)
    if not action.option_strings:
        for choice in choices:
            command.below[choice] = ""
    for flag in action.option_strings:
        if not flag.startswith("--"):
            continue
        command.flags[flag] = choices
        command.about[flag] = about


def _first_line(text: str | None) -> str:
    """The beginning of a help text, without what a shell would read."""
    whole = text or ""
    line, _, _ = whole.partition("\n")
    shown = line.replace("%%", "%")
    plain = shown.translate(_UNSAFE)
    return plain[:70]


def _bash(found: list[Command]) -> str:
    """One function: the longest command that has been typed decides what may follow."""
    cases = []
    values = []
    for command in found:
        words = " ".join([*command.below, *command.flags])
        cases.append(f'    "{command.key}") words="{words}" ;;')
        for flag, choices in command.flags.items():
            if choices:
                listed = " ".join(choices)
                values.append(f'    "{command.key} {flag}") words="{listed}" ;;')
    known = "|".join(f'"{command.key}"' for command in found if command.words)
    lines = [
        "_tbn_bench() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local typed="" words="" start="" i next',
        "  # --flag=value is three words in bash and one in zsh",
        '  if [[ "$current" == "=" ]]; then',
        '    current=""',
        '  elif [[ "$before" == "=" ]]; then',
        '    before="${COMP_WORDS[COMP_CWORD-2]}"',
        '  elif [[ "$current" == --*=* ]]; then',
        '    before="${current%%=*}"',
        '    start="$before="',
        '    current="${current#*=}"',
        "  fi",
        "  for ((i = 1; i < COMP_CWORD; i++)); do",
        '    next="${typed:+$typed }${COMP_WORDS[i]}"',
        f'    case "$next" in {known}) typed="$next" ;; esac',
        "  done",
        '  case "$typed" in',
        *cases,
        "  esac",
        '  case "${typed} ${before}" in',
        *values,
        "  esac",
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        '  COMPREPLY=("${COMPREPLY[@]/#/$start}")',
        "}",
        f"complete -o default -F _tbn_bench {PROGRAM}",
    ]
    return "\n".join(lines) + "\n"


def _fish(found: list[Command]) -> str:
    lines = []
    for command in found:
        when = _fish_condition(command)
        begin = f"complete -c {PROGRAM} -n '{when}'"
        for name, about in command.below.items():
            # -f: no files beside the words that can follow
            lines.append(f"{begin} -f -a '{name}' -d '{about}'")
        for flag, choices in command.flags.items():
            long = flag.removeprefix("--")
            line = f"{begin} -l '{long}' -d '{command.about[flag]}'"
            if choices:
                listed = " ".join(choices)
                line += f" -x -a '{listed}'"
            lines.append(line)
    return _TYPED_IN_FISH + "\n".join(lines) + "\n"


def _fish_condition(command: Command) -> str:
    """Whether the command has been typed, and none of those below it."""
    if not command.words:
        return "__fish_use_subcommand"
    typed = f"__tbn_bench_typed {command.key}"
    if not command.below:
        return typed
    below = " ".join(command.below)
    return f"{typed}; and not __fish_seen_subcommand_from {below}"
