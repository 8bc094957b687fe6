"""The documentation's pages and their code blocks, as a reader meets them, and how a reader's shell runs them.

A block's first line may be a comment that says what the block is: `# sweep.yaml` is a file of that name, and
`# Needs: a GPU` is not run here, but read by the parser that reads it where there is one.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NEEDS = ("a Slurm cluster", "the Hugging Face Hub", "a GPU", "several processes", "a fresh clone")
LANGUAGES = ("sh", "python", "yaml", "json", "text")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        page: the page's path below the repository.
        line: of its first line in the page, from 1.
        file: the name of the file that it is.
        needs: what it takes to run it, one of `NEEDS`.
    """

    page: str
    line: int
    language: str
    text: str
    file: str | None
    needs: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        language, body = match.groups()
        file = re.match(r"# ([\w/]+\.\w+)$", body.partition("\n")[0])
        needs = re.match(r"# Needs: (.*)", body.partition("\n")[0])
        found.append(
            Block(
                page=str(page.relative_to(ROOT)),
                line=text[: match.start(2)].count("\n") + 1,
                language=language,
                text=body,
                file=file and file.group(1),
                needs=needs and needs.group(1),
            )
        )
    return found


def name_of(page: Path) -> str:
    return page.stem.lower()


def all_blocks(language: str) -> list[Block]:
    """The blocks of all pages in this language."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without comments; lines that end in a backslash are joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], where: str) -> str:
    """Run one command in the current folder, as a shell would, with `> FILE`; returns what it printed.

    The project's own commands run in this process, since starting one costs more than most of them do.

    Args:
        where: what a failure's message begins with.
    """
    words, target = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)
    output = _tensloradist(words[1:], where) if words[0] == "tensloradist" else _other(words, where)
    if target is not None:
        Path(target).write_text(output, encoding="utf-8")
    return output


def _tensloradist(arguments: list[str], where: str) -> str:
    from tensloradist.cli import main

    before, sys.argv = sys.argv, ["tensloradist", *arguments]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    assert code == 0, f"{where}: tensloradist {shlex.join(arguments)} ended with {code}\n{printed.getvalue()}"
    return printed.getvalue()


def _other(words: list[str], where: str) -> str:
    """Python on a file that a block is, here; what else a shell has, there."""
    if words[0] == "python" and len(words) == 2:
        exec(compile(Path(words[1]).read_text(encoding="utf-8"), words[1], "exec"), {"__name__": "__main__"})
        return ""
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{where}: {shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout
