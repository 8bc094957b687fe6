"""A bundle: one archive with a sweep's manifest, specifications, results, predictions and provenance.

Unpacked, it is a results folder that every command reads like the original. Its last member,
`bundle.json`, names the sweep and the SHA-256 of each file. Equal sweeps give equal bytes. Imports no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict

from tensloradist.errors import UserError
from tensloradist.fingerprint import sha256_of
from tensloradist.records import NewerRecord, read_record
from tensloradist.results.layout import CLASSES, RunFolder, results_root, sweep_folder
from tensloradist.results.manifests import latest_digest
from tensloradist.results.schema import Manifest
from tensloradist.results.sweeps import find_sweep

SUFFIX = ".bundle.tar.gz"
VERSION = 1
OF_RUN = ("spec.json", "result.json", "held.json")
OF_ATTEMPT = ("attempt.json", "end.json", "failure.json", "decision.json", "provenance.json", "metrics.jsonl")
OF_PUBLISHED = ("result.json", "predictions.safetensors")
WEIGHTS = ("adapter.json", "adapter.safetensors", "head.safetensors", "backbone.safetensors", CLASSES)


class _Head(BaseModel):
    """`bundle.json`: the sweep, and the SHA-256 of each file."""

    model_config = ConfigDict(extra="forbid")
    version: int
    sweep: str
    files: dict[str, str]


def bundle_sweep(
    source: str, results: Path | None = None, out: Path | None = None, weights: bool = False
) -> tuple[Path, int]:
    """Write the bundle of a sweep as it was launched last; returns its path and the number of files in it.

    Args:
        source: a sweep file, or the name of a launched sweep.
        results: the results folder; None for the default.
        out: the archive, or a folder for it; None for NAME.bundle.tar.gz here.

    Raises:
        UserError: never launched here, a file that was edited since, or as `write_bundle`.
    """
    root = results_root(results)
    found = find_sweep(source, root)
    found.require_launched("A bundle holds a sweep as it was launched last")
    archive = f"{found.manifest.name}{SUFFIX}"
    target = out / archive if out is not None and out.is_dir() else out or Path(archive)
    digest = latest_digest(found.manifest.name, root)
    return target, write_bundle(root, found.manifest, digest, target, weights)


def write_bundle(root: Path, manifest: Manifest, digest: str, target: Path, weights: bool = False) -> int:
    """Write a sweep's bundle; returns the number of files in it.

    Args:
        digest: of the manifest; its file is named by it.
        weights: include the trained adapters and heads.

    Raises:
        UserError: the target exists, or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; choose another name with --out")
    files = sorted(_files(root, manifest, digest, weights))
    sums: dict[str, str] = {}
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as raw:
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
                for path in files:
                    name = path.relative_to(root).as_posix()
                    with _opened(path) as content:
                        sums[name] = _add(tar, name, content, os.fstat(content.fileno()).st_size)
                head = json.dumps({"version": VERSION, "sweep": manifest.name, "files": sums}, indent=1) + "\n"
                _add(tar, "bundle.json", io.BytesIO(head.encode()), len(head.encode()))
            raw.flush()
            os.fsync(raw.fileno())
        os.link(temporary, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(files)


def _files(root: Path, manifest: Manifest, digest: str, weights: bool) -> Iterator[Path]:
    folder = sweep_folder(root, manifest.name)
    yield folder / f"{digest}.json"
    yield folder / "latest"
    for run_id in dict.fromkeys(run.run_id for run in manifest.runs):
        run = RunFolder(root, run_id)
        yield from _present(run.path, OF_RUN)
        for number in run.attempt_numbers():
            attempt = run.attempt(number)
            names = OF_ATTEMPT + (OF_PUBLISHED + WEIGHTS * weights if (attempt / "result.json").exists() else ())
            yield from _present(attempt, names)


def _opened(path: Path) -> BinaryIO:
    """Open a file to bundle. Raises UserError with its name if it cannot be read."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}), so it cannot be bundled") from error


def _present(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    yield from (folder / name for name in names if (folder / name).is_file())


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> str:
    """Add `size` bytes under a name, and return their SHA-256. A file that grows meanwhile is cut at `size`."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    hashed = _Hashed(content)
    tar.addfile(member, hashed)  # type: ignore[arg-type]  # tarfile only reads from it
    return hashed.digest.hexdigest()


class _Hashed:
    """A file that hashes what is read from it."""

    def __init__(self, content: BinaryIO) -> None:
        self._content, self.digest = content, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._content.read(size)
        self.digest.update(data)
        return data


def is_bundle(source: str) -> bool:
    """Whether the source of a sweep is a bundle."""
    return source.endswith((".tar.gz", ".tgz"))


@contextmanager
def opened(path: Path) -> Iterator[tuple[str, Path]]:
    """(sweep's name, results folder) of a bundle, unpacked into a temporary folder and verified.

    Raises:
        UserError: the file is not a bundle, of another version, or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="tensloradist-bundle-") as folder:
        root = Path(folder)
        try:
            with tarfile.open(path, "r:gz") as tar:
                tar.extractall(root, filter="data")
        except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read as a bundle ({error}); `tensloradist bundle` writes them"
            ) from error
        try:
            head = read_record(root / "bundle.json", _Head, "the bundle's head", VERSION, "version")
        except NewerRecord as error:
            raise UserError(f"{path}: {str(error).partition(': ')[2]}") from error
        if head is None:
            raise UserError(f"{path}: cannot be read as a bundle (it has no bundle.json)")
        name, sums = head.sweep, head.files
        for file, expected in sums.items():
            member = root / file
            if (
                not member.resolve().is_relative_to(root.resolve())
                or not member.is_file()
                or sha256_of(member) != expected
            ):
                raise UserError(f"{path}: damaged: {file} is not as it was bundled")
        yield name, root
