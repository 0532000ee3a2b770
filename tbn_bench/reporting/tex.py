"""Single cells in LaTeX: escapes, columns that siunitx aligns, and widths."""

import math
import re
import textwrap
from dataclasses import dataclass

SETUP = (
    "mode=text, uncertainty-mode=separate, group-digits=integer, group-separator={,}, "
    "group-minimum-digits=4"
)
LINE_CM = 15.5  # of a page with margins of 2 cm, less what the estimate of widths may err
_LETTER_CM = 0.165  # mean width of a letter of \small
_GAP_CM = 0.3  # between columns
_HEAD = 14  # characters; a longer head breaks between its words
_TEXT = 40  # characters; a column with a longer text cell wraps
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "—": "---",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "<": "$<$",
    ">": "$>$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": "$-$",
    "…": r"\ldots{}",
    "[": "{[}",
    "\ue000": r"\textbf{",
    "\ue001": "}",
    "\ue002": r"\underline{",
    "\ue003": "}",
}
_ESCAPES = str.maketrans(_LATEX)
_BREAK = r"\allowbreak{}"
_RAGGED = r"\raggedright\let\\\tabularnewline "
_NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?"
_VALUE = re.compile(
    rf"(?P<number>{_NUMBER})(?: ± (?P<half>\d[\d,]*(?:\.\d+)?))?"
    r"(?P<after>(?: \(1 seed\))?[†‡]*(?: ?\[\d+\])*)"
)
_MARKS = "\ue000\ue001\ue002\ue003"  # around a cell that stands out
_CITATION = re.compile(r"\[(\d+)\]")


def escape(value: str) -> str:
    """The value in LaTeX. A character that plain LaTeX may not print becomes a question mark."""
    escaped = value.translate(_ESCAPES)
    return escaped.encode("ascii", "replace").decode()


def breakable(value: str) -> str:
    """The value in LaTeX. Words longer than a line, which are addresses, may break over lines."""
    long_word = rf"\S{{{_TEXT},}}"
    marked = re.sub(long_word, _with_breaks, value)
    return escape(marked).replace("\0", _BREAK)


def _with_breaks(word: re.Match[str]) -> str:
    """A word with a zero byte after each / , _ and =, and within each hash."""
    text = word.group()
    text = re.sub(r"[0-9a-f]{40}", _hash_with_breaks, text)
    return re.sub(r"(?<=[/,=_])(?=.)|\0", "\0", text)


def _hash_with_breaks(digits: re.Match[str]) -> str:
    text = digits.group()
    parts = re.findall(r".{8}", text)
    return "\0".join(parts)


def slug(text: str) -> str:
    """The text as the name of a label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def citations(rows: list[list[str]]) -> list[int]:
    """The numbers of the sources that cells cite, each once."""
    found: set[int] = set()
    for row in rows:
        for text in row:
            found.update(map(int, _CITATION.findall(text)))
    return sorted(found)


def head(header: str, numeric: bool) -> str:
    """The head, broken between its words so that it does not widen a column of numbers.

    Braces keep siunitx from reading it as a number.
    """
    lines = textwrap.wrap(header, _HEAD, break_long_words=False) or [""]
    escaped = [escape(line) for line in lines]
    if len(escaped) == 1:
        return f"{{{escaped[0]}}}"
    side = "c" if numeric else "l"
    text = r"\\".join(escaped)
    return rf"{{\shortstack[{side}]{{{text}}}}}"


@dataclass(frozen=True)
class Kind:
    """A column of a tabular. spec: its letter. is_number: siunitx aligns its cells."""

    spec: str
    is_number: bool = False
    wraps: bool = False

    def cell(self, text: str) -> str:
        if self.is_number:
            return _number_cell(text)
        if self.wraps:
            return _RAGGED + breakable(text)
        return escape(text)


def kind_of(header: str, cells: list[str], numeric: bool) -> Kind:
    """S for a column in which siunitx can align most cells, else r; l, or p where text wraps."""
    if not numeric:
        longest = max(map(len, cells), default=0)
        if longest <= _TEXT:
            return Kind("l")
        width = width_cm(header, cells, numeric) - _GAP_CM
        return Kind(f"p{{{width:.1f}cm}}", wraps=True)
    matches = [_VALUE.fullmatch(text.strip(_MARKS)) for text in cells]
    values = [match for match in matches if match]
    if 2 * len(values) < len(cells) or not values:
        return Kind("r")
    return Kind(f"S[{_format(values)}]", is_number=True)


def _format(values: list[re.Match[str]]) -> str:
    """siunitx's table-format: the digits before and after the point, and those of the interval."""
    before = after = interval = 0
    sign = ""
    post = ""
    for match in values:
        number = match["number"].replace(",", "")
        if number[0] in "-−+":
            sign = "-"
        whole, _, decimals = number.lstrip("-−+").partition(".")
        before = max(before, len(whole))
        after = max(after, len(decimals))
        if match["half"]:
            digits = re.sub(r"[,.]", "", match["half"])
            interval = max(interval, len(digits))
        post = max(post, match["after"], key=len)

    form = f"table-format={sign}{before}.{after}" if after else f"table-format={sign}{before}"
    if interval:
        form += f"({interval})"
    if post:
        form += f", table-space-text-post={{{_after(post)}}}"
    return form


def _number_cell(text: str) -> str:
    """A number for siunitx; anything else, and a number that stands out, as text in braces."""
    match = _VALUE.fullmatch(text)
    if match is None:
        return f"{{{escape(text)}}}"
    number = match["number"].replace(",", "").replace("−", "-")
    half = match["half"]
    if half:
        number += rf" \pm {half.replace(',', '')}"
    after = match["after"]
    if after:
        number += f"{{{_after(after)}}}"
    return number


def _after(marks: str) -> str:
    """The marks and citations after a number."""
    return rf"\,{escape(marks.strip())}"


def width_cm(header: str, cells: list[str], numeric: bool) -> float:
    """About how wide a column is in print."""
    head_lines = textwrap.wrap(header, _HEAD, break_long_words=False) or [""]
    letters = max(map(len, head_lines))
    longest = max(map(len, cells), default=0)
    if not numeric:
        longest = min(longest, _TEXT)
    return _GAP_CM + _LETTER_CM * max(letters, longest)


def height(row: list[str], is_text: list[bool]) -> int:
    """The lines that a row takes in print."""
    lines = 1
    for text, wraps in zip(row, is_text, strict=True):
        if wraps:
            lines = max(lines, math.ceil(len(text) / _TEXT))
    return lines
