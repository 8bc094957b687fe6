"""Publishing and reading results: validated when written and when read; the first result stays. Imports no torch."""

from __future__ import annotations

import difflib
import json
import logging
from contextlib import suppress
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.files import FULL, link_aside, link_once, reserve, take_away, write_once, write_reserved
from tensloradist.records import DamagedRecord, UnreadableRecord, read_record
from tensloradist.results.layout import ATTEMPT_DIGITS, RunFolder
from tensloradist.results.schema import RESULT_SCHEMA_VERSION, Failure, Result
from tensloradist.spec import RunSpec

RESERVED, RESERVED_BYTES = ".reserved", 16 * 1024
log = logging.getLogger("tensloradist")


def read_result(path: Path) -> Result:
    """The validated result in a file.

    Raises:
        UnreadableRecord: absent or not readable; a DamagedRecord or NewerRecord where that is the reason.
    """
    result = read_record(path, Result, "the result", RESULT_SCHEMA_VERSION)
    if result is None:
        raise UnreadableRecord(path, "there is no such result")
    return result


def read_published(run: RunFolder, path: Path | None = None) -> Result | None:
    """A run's result; None if it has none.

    Args:
        path: of a result that was set aside.

    Raises:
        UnreadableRecord: as `read_result`; a DamagedRecord, too, for a result of another run.
    """
    path = path or run.result
    result = read_record(path, Result, "the result", RESULT_SCHEMA_VERSION)
    if result is not None and result.run_id != run.run_id:
        raise DamagedRecord(path, "the result", f"it is of run {result.run_id}, so it does not belong here")
    return result


def read_spec(path: Path) -> RunSpec | None:
    """The stored specification of a run; None if there is none.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    return read_record(path, RunSpec, "the specification")


def read_run(folder: Path) -> tuple[RunSpec, Result]:
    """The specification and the result of a finished run, from its folder `results/runs/<run_id>`.

    Raises:
        UserError: no such folder, no result in it, or files that this version cannot read.
    """
    spec = read_spec(folder / "spec.json")
    for name, missing in (("spec.json", spec is None), ("result.json", not (folder / "result.json").exists())):
        if missing:
            raise UserError(f"{folder}: no {name}; expected the folder of a finished run, results/runs/<run_id>")
    assert spec is not None
    return spec, read_result(folder / "result.json")


def trained_attempt(folder: Path) -> tuple[RunSpec, Result, Path]:
    """The specification and the result of a finished run, and the folder of the published attempt, with its adapter.

    Raises:
        UserError: as `read_run`, or the run has diverged.
    """
    spec, result = read_run(folder)
    if result.state != "finished":
        raise UserError(f"{folder}: the run is {result.state}; only a finished run has an adapter to use")
    return spec, result, folder / "attempts" / f"{result.attempt:0{ATTEMPT_DIGITS}d}"


def publish(run: RunFolder, result: Result) -> bool:
    """Write the attempt's result.json and link it as the run's; False if the run has one already.

    A later result stays in its attempt, as a duplicate that can be compared.

    Raises:
        ValueError: the result is of another run, or its attempt has one already.
    """
    if result.run_id != run.run_id:
        raise ValueError(f"a result of run {result.run_id} cannot be published as run {run.run_id}'s")
    path = run.attempt(result.attempt) / "result.json"
    if not write_once(path, Result.model_validate(result.model_dump()).model_dump_json(indent=2) + "\n"):
        raise ValueError(f"{path}: this attempt has a result already")
    return link_once(path, run.result)


def write_spec(run: RunFolder, spec: RunSpec) -> None:
    """Store the full resolved specification once.

    Raises:
        UserError: the folder has another specification with the same id, since a default has changed; shows the diff.
    """
    text = json.dumps(spec.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    if write_once(run.spec, text):
        return
    stored = read_spec(run.spec)
    if stored is None:
        raise UserError(f"{run.spec}: was removed while the run began; try again")
    if stored.canonical_json() != spec.canonical_json():
        old, new = (json.dumps(json.loads(s.canonical_json()), indent=1, sort_keys=True) for s in (stored, spec))
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "stored", "new", lineterm="", n=0)
        diff = "\n".join(lines)
        raise UserError(
            f"{run.spec}: the stored specification differs from this run's, though their ids agree:\n{diff}"
        )


def reserve_failure(attempt: Path) -> None:
    """Reserve room for the record of a failure, so that it can be written when the disk is full."""
    reserve(attempt / RESERVED, RESERVED_BYTES)


def give_back_reserved(attempt: Path) -> None:
    """Free the room that `reserve_failure` has reserved."""
    with suppress(OSError):
        (attempt / RESERVED).unlink(missing_ok=True)


def write_failure(attempt: Path, failure: Failure) -> None:
    """Record why an attempt ended without a result; the first record stays. A full disk has room reserved for it."""
    path = attempt / "failure.json"
    try:
        write_once(path, failure.model_dump_json(indent=2) + "\n")
    except OSError as error:
        if error.errno in FULL and path.exists():
            return
        if error.errno not in FULL or not (attempt / RESERVED).exists():
            raise
        # The end of a traceback has the error; the rest of the record is short.
        short = {"message": failure.message[:500], "traceback": failure.traceback and failure.traceback[-2000:]}
        write_reserved(path, failure.model_copy(update=short).model_dump_json() + "\n", attempt / RESERVED)


def read_failure_of(run: RunFolder, number: int) -> Failure | None:
    """One attempt's failure, if it ended with one.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    return read_record(run.attempt(number) / "failure.json", Failure, "the failure's record", 1)


def sound_attempt(run: RunFolder) -> int | None:
    """The first attempt that has a valid result of the run; None if none has."""
    for attempt in run.attempt_numbers():
        try:
            if read_result(run.attempt(attempt) / "result.json").run_id == run.run_id:
                return attempt
        except UnreadableRecord:
            continue
    return None


def recover_broken(run: RunFolder) -> Path | None:
    """Set a damaged result aside, so that the run is trained again; returns its new path, None if nothing is wrong.

    A power cut or a full disk can damage one. It is renamed, never deleted, and replaced by another attempt's valid
    result if there is one. A result of a newer version, or one that cannot be read, is left as it is. Several processes
    may do this at once.
    """
    try:
        read_published(run)
        return None
    except DamagedRecord as error:
        problem = error
    except UnreadableRecord as error:
        log.warning("%s; it is left as it is", error)
        return None
    try:
        return _set_aside(run, problem)
    except FileNotFoundError:  # another process has set it aside meanwhile
        return None
    except OSError as error:  # another user's folder, for one
        log.warning("%s; it cannot be set aside (%s)", problem, error.strerror or error)
        return None


def _set_aside(run: RunFolder, problem: DamagedRecord) -> Path | None:
    aside = link_aside(run.result, "broken")
    if not _is_damaged(run, aside):  # the damaged file was replaced meanwhile: this is another one
        aside.unlink(missing_ok=True)
        return None
    attempt = sound_attempt(run)
    sound = None if attempt is None else run.attempt(attempt) / "result.json"
    if aside.is_dir():
        if sound is not None:
            link_once(sound, run.result)
    elif not take_away(run.result, aside, sound):
        return None
    log.warning("%s; it is set aside", problem)
    if attempt is not None:
        log.warning("%s: the sound result of attempt %d takes its place", run.result, attempt)
    return aside


def _is_damaged(run: RunFolder, path: Path) -> bool:
    try:
        read_published(run, path)
    except DamagedRecord:
        return True
    except UnreadableRecord:
        pass
    return False
