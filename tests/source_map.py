"""The map of files in `docs/architecture.md`, made from the first sentence of each Python module and C file.

`make map` writes it; `tests/test_docs.py` holds it.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- map: begin (make map) -->"
END = "<!-- map: end -->"
MARKER_LINE = "Marks a package."
NOTHING = ""


def source_files() -> list[str]:
    """Paths of all Python and C files of the repository, new ones included, each under its real name only."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.c", "*.h"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return sorted({path for path in listed if path and (ROOT / path).is_file()}, key=_reading_order)


def _reading_order(path: str) -> tuple[int, str, str]:
    """From what a user meets first down to the tests; a package's own file before its modules."""
    tops = [
        "cli/",
        "swarm/__init__",
        "swarm/bench/",
        "swarm/client/",
        "peer/",
        "swarm/shards/",
        "routing/",
        "swarm/wire/",
    ]
    tops += ["swarm/security/", "swarm/builtin/", "swarm/core/", "tests/"]
    place = next((i for i, top in enumerate(tops) if path.startswith(top)), len(tops))
    folder, _, name = path.rpartition("/")
    return place, folder, "" if name == "__init__.py" else name


def summary(path: str) -> str:
    """First sentence of the docstring, or of the comment that begins a C file; an empty `__init__.py` needs none."""
    text = (ROOT / path).read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) if path.endswith(".py") else _first_comment(text)
    if not docstring:
        return MARKER_LINE if path.endswith("__init__.py") else NOTHING
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence, dot, _ = paragraph.partition(". ")
    return (sentence + dot).strip().rstrip(":")


def _first_comment(text: str) -> str:
    """What a C file says of itself, without the stars; empty if it begins with something else."""
    if not text.startswith("/*"):
        return ""
    lines = text[2:].partition("*/")[0].split("\n")
    return "\n".join(line.removeprefix(" *").strip() for line in lines)


def render() -> str:
    """The map as Markdown: a table for each folder."""
    lines = [BEGIN]
    folder = None
    for path in source_files():
        if path.rpartition("/")[0] != folder:
            folder = path.rpartition("/")[0]
            lines += ["", f"### {folder}/", "", "| file | |", "|---|---|"]
        text = summary(path).replace("|", "\\|")
        lines.append(f"| `{path}` | {text} |")
    return "\n".join([*lines, "", END])


def document() -> str:
    """The whole document with the map as it should be."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + render() + after


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
