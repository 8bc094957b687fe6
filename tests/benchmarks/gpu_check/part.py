"""A part of the check, in a process of its own: what it may use, and how what it finds reaches the command.

    python -m gpu_check.part REQUEST.json

The request names the part; each row that it finds is a line of JSON in the request's file of events, written at
once, so that a crash costs no row.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_check.report import Row

OURS = ("tensloradist", "launch", "analysis", "gpu_check", "operations", "fake_cuda")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the command knows of a part without importing it.

    Attributes:
        module: has `rows(check)`, a generator of rows.
        question: what the part answers.
        needs: the libraries without which the whole part is skipped.
        expected: seconds that it takes, by device, of which it gets the multiple if there is time.
    """

    name: str
    module: str
    question: str
    expected: dict[str, float]
    needs: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Check:
    """What a part is given.

    Attributes:
        device: cuda or cpu. On the CPU models are tiny, and what only a GPU can answer is not judged.
        folder: an empty folder of its own.
        ends: when the part is ended by force (time.time()).
        options: of the command line.
    """

    part: str
    device: str
    folder: Path
    ends: float
    options: dict[str, Any] = field(default_factory=dict)
    emit: Callable[[dict[str, Any]], None] = print

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def seconds_left(self) -> float:
        return self.ends - time.time()

    def say(self, text: str) -> None:
        """What is being done now, where it may take more than two seconds."""
        self.emit({"say": text})

    def judged(self, check: str, holds: bool, text: str, **figures: Any) -> Row:
        return Row(part=self.part, check=check, state="holds" if holds else "falls short", text=text, figures=figures)

    def judged_on_gpu(self, check: str, holds: bool, text: str, **figures: Any) -> Row:
        """As `judged` on a GPU; on the CPU the same was done, and only its figures are shown."""
        if self.on_gpu:
            return self.judged(check, holds, text, **figures)
        return self.skipped(check, f"done, not judged on the CPU: {text}", **figures)

    def skipped(self, check: str, reason: str, **figures: Any) -> Row:
        return Row(part=self.part, check=check, state="skipped", text=reason, figures=figures)

    def failed(self, check: str, error: BaseException) -> Row:
        """A check that raised: skipped where a library is absent, else it falls short."""
        if (missing := library_missing_in(error)) is not None:
            return self.skipped(check, f"not installed: {missing}")
        said = " ".join(str(error).split())
        lines = tuple("".join(traceback.format_exception(error)).splitlines()[-30:])
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        return Row(part=self.part, check=check, state="falls short", text=text, output=lines)


def absent(names: Iterable[str]) -> list[str]:
    """Those of the libraries that are not installed."""
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None  # None: an import of it is refused
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def library_missing_in(error: BaseException) -> str | None:
    """The library whose absence the error is, if it is one that others have made."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    library = error.name.split(".")[0]
    return library if library not in OURS and absent([library]) else None


def run_part(module: str, needs: Iterable[str], check: Check) -> Iterator[Row]:
    """The part's rows; of an exception, a row that says so."""
    if missing := absent(needs):
        yield check.skipped("libraries", f"not installed: {', '.join(missing)}")
        return
    try:
        yield from importlib.import_module(module).rows(check)
    except Exception as error:  # whatever it is, it is what the row is about
        yield check.failed("all of it", error)


def main() -> int:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with open(request["events"], "w", buffering=1, encoding="utf-8") as events:

        def emit(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")

        check = Check(
            part=request["part"],
            device=request["device"],
            folder=Path(request["folder"]),
            ends=request["ends"],
            options=request["options"],
            emit=emit,
        )
        for row in run_part(request["module"], request["needs"], check):
            emit({"row": asdict(row)})
        emit({"end": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
