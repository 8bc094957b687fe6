"""The command line `tensloradist`: the commands of one run, and through entry points those of sweeps and the analysis.

A user's mistake is one message and exit code 2; a bug keeps its traceback. Heavy imports happen inside commands.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import warnings
from typing import NoReturn

# Nothing slow is imported up here: Ctrl-C during an import is `main`'s to catch.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def main() -> None:
    """The console script. Ctrl-C ends it without a traceback, even during its imports."""
    try:
        code = _code_of_command()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _code_of_command() -> int:
    try:
        import typer
    except ModuleNotFoundError:
        sys.exit("The commands need more than the adapters: pip install 'tensloradist[all]'")
    from tensloradist.caching import redirect_libraries
    from tensloradist.errors import UserError

    warnings.filterwarnings("ignore", r"ranks: .* exceeds ")  # the commands say it in a line of their own
    _escape_unknown_letters()
    try:
        redirect_libraries()
        return _application()(standalone_mode=False) or 0
    except UserError as error:
        _fail(str(error))
    except typer.Abort:
        return 130
    except BrokenPipeError:
        # The reader has gone, as with `| head`; the interpreter must not try to flush what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name) if error.name else None
        if extra is None:
            raise
        _fail(f"This command needs the package {error.name!r}: pip install 'tensloradist[{extra}]'")
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = error.filename or "the results folder"
        _fail(f"{where}: {error.strerror}; make room or get write access there, or choose another folder")
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())


def _escape_unknown_letters() -> None:
    """Let a letter that the terminal's encoding lacks, or a file name that is not UTF-8, be printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str) -> NoReturn:
    from tensloradist.terminal import say_error

    say_error(message)
    sys.exit(2)


def _extra_with(module: str) -> str | None:
    """The extra of this distribution that installs a module; None if there is none."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        stated = requires("tensloradist") or []
    except PackageNotFoundError:  # used from a bare checkout
        return None
    pattern = re.compile(rf"{re.escape(module.split('.')[0])}\b.*extra\s*==\s*[\"'](\w+)", re.IGNORECASE)
    extras = [match.group(1) for match in map(pattern.match, stated) if match]
    return extras[0] if extras else None


def _application():  # type: ignore[no-untyped-def]  # typer is optional, so its types are not named here
    from importlib.metadata import entry_points

    from tensloradist import commands
    from tensloradist.command_group import application
    from tensloradist.errors import UserError

    app = application()
    for entry in sorted(entry_points(group="tensloradist.commands"), key=lambda entry: entry.name):
        try:
            register = entry.load()
        except ModuleNotFoundError as error:
            if error.name is None or not entry.value.startswith(error.name):
                raise
            raise UserError(
                f"the commands of {entry.value} are not in this version of the code; install it again: `make install`, "
                "or `pip install -e .` in the checkout"
            ) from None
        register(app)
    commands.register(app)
    return app


if __name__ == "__main__":
    main()
