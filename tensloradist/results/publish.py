"""Publishing and reading results: validated when written and when read, the first one for ever. No torch here."""

from __future__ import annotations

import difflib
import json
import logging
import os
from pathlib import Path

from pydantic import ValidationError

from tensloradist.errors import UserError
from tensloradist.files import link_once, write_once
from tensloradist.results.layout import ATTEMPT_DIGITS, RunFolder
from tensloradist.results.schema import RESULT_SCHEMA_VERSION, Failure, Result
from tensloradist.spec import RunSpec

log = logging.getLogger("tensloradist")


class BrokenResult(UserError):
    """A result file that is not a result of this version."""


def read_result(path: Path) -> Result:
    """The validated result in a file.

    Raises:
        BrokenResult: unreadable, of another schema version, or not what the schema says.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenResult(f"{path}: cannot be read as a result ({error})") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != RESULT_SCHEMA_VERSION:
        raise BrokenResult(f"{path}: schema_version {version!r}; this version reads {RESULT_SCHEMA_VERSION}")
    try:
        return Result.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BrokenResult(f"{path}: not a valid result ({field}: {first['msg']})") from error


def read_run(folder: Path) -> tuple[RunSpec, Result]:
    """The specification and the result of a finished run, from its folder `results/runs/<run_id>`.

    Raises:
        UserError: no such folder, no result in it, or files that this version cannot read.
    """
    for name in ("spec.json", "result.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}; expected the folder of a finished run, results/runs/<run_id>")
    try:
        return RunSpec.model_validate_json((folder / "spec.json").read_text()), read_result(folder / "result.json")
    except ValidationError as error:
        raise UserError(f"{folder}: not readable by this version: {error}") from error


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
        UserError: the folder holds another specification with the same id (a default has changed): shows the diff.
    """
    text = json.dumps(spec.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    if write_once(run.spec, text):
        return
    try:
        stored = RunSpec.model_validate_json(run.spec.read_text())
    except ValidationError as error:
        raise UserError(f"{run.spec}: not a specification of this version ({error.errors()[0]['msg']})") from error
    if stored.canonical_json() != spec.canonical_json():
        old, new = (json.dumps(json.loads(s.canonical_json()), indent=1, sort_keys=True) for s in (stored, spec))
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "stored", "new", lineterm="", n=0)
        diff = "\n".join(lines)
        raise UserError(
            f"{run.spec}: the stored specification differs from this run's, though their ids agree:\n{diff}"
        )


def write_failure(attempt: Path, failure: Failure) -> None:
    """Record why an attempt ended without a result; the first word stays."""
    write_once(attempt / "failure.json", failure.model_dump_json(indent=2) + "\n")


def read_failure(run: RunFolder) -> Failure | None:
    """The newest attempt's failure, if it ended with one."""
    return next((f for number in reversed(run.attempt_numbers()) if (f := read_failure_of(run, number))), None)


def read_failure_of(run: RunFolder, number: int) -> Failure | None:
    """One attempt's failure, if it ended with one. Raises BrokenResult for a file that is no failure record."""
    path = run.attempt(number) / "failure.json"
    if not path.exists():
        return None
    try:
        return Failure.model_validate_json(path.read_text())
    except ValidationError as error:
        raise BrokenResult(f"{path}: not a valid failure record ({error.errors()[0]['msg']})") from error


def recover_broken(run: RunFolder) -> Path | None:
    """Set a broken result aside, so that the run is trained again; returns where it went, None for a sound one.

    A power cut or a full disk can leave one. It is renamed, never deleted, and another attempt's sound result takes
    its place if there is one.
    """
    try:
        read_result(run.result)
        return None
    except BrokenResult as error:
        if not run.result.exists():  # somebody else set it aside meanwhile
            return None
        log.warning("%s; it is set aside", error)
    number = 1 + sum(1 for _ in run.path.glob("result.json.broken-*"))
    aside = run.path / f"result.json.broken-{number}"
    os.rename(run.result, aside)
    for attempt in run.attempt_numbers():
        path = run.attempt(attempt) / "result.json"
        try:
            read_result(path)
        except BrokenResult:
            continue
        link_once(path, run.result)
        log.warning("%s: the sound result of attempt %d takes its place", run.result, attempt)
        break
    return aside
