"""The group of all commands: it lists them under headings, and still takes the names that commands had before."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

import typer
from typer.core import TyperGroup

from tensloradist.options import HEADINGS
from tensloradist.terminal import say


@dataclass(frozen=True, kw_only=True)
class Former:
    """What a former command is now: a command, options that are added to it, and options with another name."""

    command: str
    added: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)

    def words(self, given: list[str]) -> list[str]:
        """The words of the present command, for those that followed the former one."""
        words = []
        for word in given:
            name, equals, value = word.partition("=")
            words.append(self.renamed.get(name, name) + equals + value)
        is_given = any(word.partition("=")[0] == self.added[0] for word in words) if self.added else True
        return [self.command, *words, *(() if is_given else self.added)]


FORMER = {
    "table": Former(command="report", added=("--only", "tables")),
    "figures": Former(command="report", added=("--only", "figures")),
    "results": Former(command="report", added=("--only", "results")),
    "retry": Former(command="launch", added=("--failed",), renamed={"--cause": "--failed"}),
    "release": Former(command="hold", added=("--release",)),
    "logs": Former(command="explain", added=("--log",)),
    "why": Former(command="explain"),
}


class Commands(TyperGroup):
    """The application's group; `typer.Typer(cls=Commands)`."""

    # Contexts and commands are click's or Typer's own copies of them, depending on Typer's version: hence Any.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant; for a former name, its successor, which one line on standard error names."""
        former = FORMER.get(args[0])
        if former is not None:
            name, args = args[0], former.words(args[1:])
            say(f"note: `{name}` is now: {shlex.join(['tensloradist', *args])}", stderr=True)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with the first sentence of their help, under the heading of when they are needed."""
        longest = max(map(len, self.commands))
        for heading in HEADINGS:
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (name.ljust(longest), command.get_short_help_str(formatter.width - 6 - longest))
                        for name, command in self.commands.items()
                        if getattr(command, "rich_help_panel", None) == heading
                    ]
                )


def application() -> typer.Typer:
    """The application without commands; each package adds its own."""
    return typer.Typer(
        name="tensloradist",
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Benchmark tensor low-rank adaptation of Transformers: sweeps over groupings, ranks and seeds, compared "
        "at LoRA's rank and at LoRA's number of parameters.",
        epilog="\b\nExamples:\n"
        "    tensloradist launch demo\n"
        "    tensloradist status demo\n"
        "    tensloradist report demo --out report\n"
        "    tensloradist COMMAND --help",
    )
