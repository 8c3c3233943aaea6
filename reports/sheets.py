"""Tables of text and their two renderings: Markdown for pages, LaTeX with booktabs for papers.

What stands in a table may be any text: it is shown as it stands, never read as markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": "'{}",
    '"': r"\char34{}",
    "-": "-{}",  # two in a row are a dash
    "[": "{[}",  # after the end of a line it would begin an option
    "*": "{*}",
    "!": "!{}",  # with ` it is another sign, as is ?
    "?": "?{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "–": "--",
    "×": r"$\times$",
    "−": "$-$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "†": r"$^{\dagger}$",
    "…": r"\dots{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
"""How the signs that LaTeX reads as commands, and the arrows, are spelled."""

LATIN = 0x17F
"""Letters up to this one are known to every LaTeX engine."""


@dataclass(frozen=True)
class Entry:
    """One field of a table. small: an interval below or beside it. rank: 1 best, 2 second."""

    text: str = ""
    small: str = ""
    rank: int = 0
    italic: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table of text: blocks of lines, a rule between blocks, notes and definitions below.

    left: number of columns that are aligned left; the others are aligned right.
    """

    heads: tuple[str, ...]
    blocks: tuple[tuple[tuple[Entry, ...], ...], ...]
    notes: tuple[str, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()
    left: int = 1


def printable(text: str) -> str:
    """Return `text` in one line, without control signs and marks that change its direction."""
    kept = (" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in text)
    return " ".join("".join(kept).split())


def escape_markdown(text: str) -> str:
    """Return `text` so that a Markdown table shows it; brackets and stars of labels stay bare."""
    return re.sub(r"([\\|<`])", r"\\\1", printable(text))


def to_markdown(sheet: Sheet) -> str:
    """Return a pipe table with its notes and definitions."""
    count = len(sheet.heads)
    rule = [":--"] * sheet.left + ["--:"] * (count - sheet.left)
    body = [[_markdown(entry) for entry in line] for block in sheet.blocks for line in block]
    heads = [escape_markdown(head) for head in sheet.heads]
    parts = ["\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *body])]
    if sheet.notes:
        parts.append("\n".join(f"- {note}" for note in sheet.notes))
    if sheet.definitions:
        known = "\n".join(f"- `{name}`: {text}" for name, text in sheet.definitions)
        parts.append(f"Definitions:\n\n{known}")
    return "\n\n".join(parts) + "\n"


def _markdown(entry: Entry) -> str:
    marks = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}
    text = escape_markdown(entry.text)
    shown = marks[entry.rank].format(text) if text else ""
    shown = f"*{shown}*" if entry.italic else shown
    return " ".join(filter(None, [shown, escape_markdown(entry.small)]))


def escape_latex(text: str) -> str:
    """Return `text` so that LaTeX prints it as it stands."""
    return "".join(LATEX.get(sign, sign) for sign in printable(text))


def to_latex(sheet: Sheet, caption: str, label: str) -> str:
    r"""Return a booktabs float (needs `\usepackage{booktabs}`), small parts below, notes last.

    Tables of more than four columns span both columns of a page. Letters beyond Latin need
    lualatex or xelatex with a font that has them, which a comment at the top then says.
    """
    float_name = "table*" if len(sheet.heads) > 4 else "table"
    columns = "l" * sheet.left + "r" * (len(sheet.heads) - sheet.left)
    body = "\n\\midrule\n".join("\n".join(_latex_lines(block)) for block in sheet.blocks if block)
    text = (
        f"\\begin{{{float_name}}}[t]\n\\centering\n\\small\n\\setlength{{\\tabcolsep}}{{4pt}}\n"
        f"\\caption{{{escape_latex(caption.rstrip('.'))}.}}\n\\label{{{_label(label)}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        + " & ".join(_latex_head(head) for head in sheet.heads)
        + f" \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
        + _latex_notes(sheet)
        + f"\\end{{{float_name}}}\n"
    )
    return _needs(text) + text


def _needs(text: str) -> str:
    beyond = sorted({sign for sign in text if ord(sign) > LATIN})
    if not beyond:
        return ""
    return f"% Compile with lualatex or xelatex: holds {' '.join(beyond)}\n"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9:.]+", "-", text)


def _latex_head(head: str) -> str:
    """A heading; a metric's id is broken after its slash, so that columns stay narrow."""
    before, slash, after = head.partition("/")
    if not (slash and after and before):
        return escape_latex(head)
    return f"\\shortstack[r]{{{escape_latex(before)}/\\\\{escape_latex(after)}}}"


def _latex_lines(block: Iterable[tuple[Entry, ...]]) -> Iterable[str]:
    for line in block:
        yield " & ".join(_latex(entry) for entry in line) + r" \\"
        if any(entry.small for entry in line):
            small = (f"{{\\scriptsize {escape_latex(e.small)}}}" if e.small else "" for e in line)
            yield " & ".join(small) + r" \\[2pt]"


def _latex(entry: Entry) -> str:
    marks = {0: "{}", 1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}
    text = escape_latex(entry.text)
    shown = marks[entry.rank].format(text) if text else ""
    return f"\\textit{{{shown}}}" if entry.italic else shown


def _latex_notes(sheet: Sheet) -> str:
    texts = [*sheet.notes, *(f"{name}: {text}" for name, text in sheet.definitions)]
    if not texts:
        return ""
    lines = "\\par\n".join(escape_latex(text) for text in texts)
    return (
        "\\par\\smallskip\n\\begin{minipage}{\\linewidth}\n\\footnotesize\\raggedright\n"
        f"{lines}\n\\end{{minipage}}\n"
    )
