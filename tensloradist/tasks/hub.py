"""Data sets on the Hugging Face Hub, pinned to a commit, or a local copy of one; loading is `datasets`' own.

Only the parquet files of the splits in use are downloaded, into huggingface_hub's cache, and then read from there, so
that a job without a network reads exactly the commit that was fetched, and never half of one.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensloradist import hub
from tensloradist.caching import cached_folder
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, hash_path
from tensloradist.tasks.progress import quiet_datasets

if TYPE_CHECKING:
    from tensloradist.spec import TaskSpec

_VERSION = 1  # of the cache's layout
_COMMIT = r"[0-9a-f]{40}"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class HubData:
    """A task's data set on the Hub.

    Attributes:
        name: owner/name; `task.data` may name a copy of the same layout instead.
        splits: those that the task uses, each in files FOLDER/SPLIT-*.parquet.
        folder: where they are, if the repository has several data sets; None: the folder that has them.
        revision: the commit to take if the task names none; None: the newest.
    """

    name: str
    splits: tuple[str, ...]
    folder: str | None = None
    revision: str | None = None

    @property
    def patterns(self) -> list[str]:
        return [f"{self.folder or '*'}/{split}-*.parquet" for split in self.splits]


def local(task: TaskSpec) -> Path | None:
    """The local folder that `task.data` names, or None if it names a Hub data set (or nothing).

    Raises:
        UserError: it is neither, or it is a path with a revision.
    """
    if task.data is None:
        return None
    path = Path(task.data)
    if os.path.exists(path):
        if task.revision is not None:
            raise UserError(
                f"task.revision: {task.revision!r} means a revision on the Hub, but task.data {task.data} is a local "
                "path; leave one of them out"
            )
        return path
    if path.is_absolute() or task.data.startswith(".") or task.data.count("/") != 1:
        raise DataMissing(f"task.data: {task.data}: no such file or folder")
    return None


def commit(task: TaskSpec, data: HubData) -> str:
    """The commit of the task's Hub data: pinned by its revision or its fingerprint, else the Hub's current one."""
    name = task.data or data.name
    revision = task.revision or (data.revision if task.data is None else None)
    pinned = re.fullmatch(rf"{re.escape(name)}@({_COMMIT})(#.*)?", task.fingerprint or "")
    if pinned and not re.fullmatch(_COMMIT, revision or ""):
        return pinned.group(1)
    return hub.commit_of(hub.DATA_SET, name, revision)


def fingerprint(task: TaskSpec, data: HubData) -> str:
    """Hash of the local files, or name@commit."""
    path = local(task)
    return hash_path(path) if path is not None else f"{task.data or data.name}@{commit(task, data)}"


def load(task: TaskSpec, data: HubData) -> Any:
    """The data set as `datasets.DatasetDict`: split -> Dataset.

    `datasets` caches by path and modification time, which do not identify the content. So it reads into a folder
    within our cache that is named by the fingerprint.

    Raises:
        UserError: it cannot be downloaded or loaded, with the reason.
    """
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    from datasets import load_from_disk

    content = fingerprint(task, data)

    def make(folder: Path) -> None:
        # On NFS a file that is still mapped cannot be deleted at once.
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as work:
            _read(task, data, work).save_to_disk(str(folder / "data"))
        if fingerprint(task, data) != content:
            raise UserError(f"task.data: {task.data} has changed while it was read; start again when it is complete")

    key = hash_bytes("datasets", str(_VERSION), content, *data.patterns)
    with quiet_datasets():
        return load_from_disk(str(cached_folder("datasets", key, make) / "data"))


def _read(task: TaskSpec, data: HubData, work: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name = task.data or data.name
    path = local(task)
    files = _shards(path, data, name) if path is not None else _downloaded(task, data)
    try:
        if files is None:
            return load_dataset(str(path), cache_dir=work)
        shards = {split: [str(file) for file in files[split]] for split in files}
        return load_dataset("parquet", data_files=shards, cache_dir=work)
    except (DatasetsError, ValueError, OSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"task.data: {name}: cannot be loaded ({reason})") from error


def missing(task: TaskSpec, data: HubData) -> list[str]:
    """What would have to be downloaded: nothing if all files of the pinned commit are in the local cache."""
    if local(task) is not None:
        return []
    name = task.data or data.name
    try:
        pinned = commit(task, data)
    except UserError:
        return [f"data set {name} (run `tensloradist fetch`)"]
    found = _files_of(name, pinned, data).cached(partial(_shards, data=data, name=name))
    return [] if found else [f"data set {name}@{pinned} (run `tensloradist fetch`)"]


def _downloaded(task: TaskSpec, data: HubData) -> dict[str, list[Path]]:
    name = task.data or data.name
    lacking = f"a complete set of {' and '.join(data.patterns)}"
    return _files_of(name, commit(task, data), data).fetched(partial(_shards, data=data, name=name), lacking)


def _files_of(name: str, pinned: str, data: HubData) -> hub.Snapshot:
    return hub.Snapshot(kind=hub.DATA_SET, name=name, commit=pinned, patterns=data.patterns)


def _shards(folder: Path, data: HubData, name: str) -> dict[str, list[Path]] | None:
    """Split -> its parquet files, or None unless every split has all of its shards.

    Raises:
        UserError: a split is in several folders.
    """
    found = {}
    for split, pattern in zip(data.splits, data.patterns, strict=True):
        files = sorted(folder.glob(pattern))
        places = sorted({file.parent.name for file in files})
        if len(places) > 1:
            raise UserError(f"task.data: {name}: its split {split!r} is in several folders: {', '.join(places)}")
        shards = {match.groups() for match in (_SHARD.search(file.name) for file in files) if match}
        totals = {int(total) for _, total in shards}
        if not files or len(totals) > 1 or (totals and len(files) != totals.pop()):
            return None
        found[split] = files
    return found
