"""Data sets on the Hugging Face Hub, pinned to a commit, or a local copy of one; loading is `datasets`' own.

Only the parquet files of the splits that are used are downloaded, into huggingface_hub's cache, and then read from
there: so a job without a network reads exactly the commit that was fetched, and never half of one.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensloradist.caching import cached_folder
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, hash_path
from tensloradist.tasks.progress import quiet_datasets

if TYPE_CHECKING:
    from tensloradist.spec import TaskSpec

_REMEDY = (
    "run `tensloradist fetch` where the Hub can be reached, give a local folder as task.data, or set task.revision to "
    "a commit that is in the cache"
)
_VERSION = 1  # of the cache's layout
_COMMIT = r"[0-9a-f]{40}"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class HubData:
    """A task's data set on the Hub.

    Attributes:
        name: owner/name; `task.data` may name a copy of the same layout instead.
        splits: those that the task uses, each in files FOLDER/SPLIT-*.parquet.
        folder: where they are, if the repository has several data sets; None: in whichever folder has them.
        revision: the commit taken where the task names none; None: the newest.
    """

    name: str
    splits: tuple[str, ...]
    folder: str | None = None
    revision: str | None = None

    @property
    def patterns(self) -> list[str]:
        return [f"{self.folder or '*'}/{split}-*.parquet" for split in self.splits]


@lru_cache(maxsize=256)
def commit_of(name: str, revision: str | None) -> str:
    """The commit that a revision of a Hub data set means: asked of the Hub, or of the local cache when out of reach.

    Raises:
        UserError: neither knows it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    try:
        found = HfApi().resolve_revision(name, repo_type="dataset", revision=revision)
    except HFValidationError as error:
        raise UserError(f"task.data: {name!r} is neither an existing path nor a Hub name ({error})") from error
    except GatedRepoError as error:
        raise UserError(
            f"task.data: the Hub gives {name!r} only to those who accepted its terms; log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"task.data: {name!r} is neither an existing path nor a data set on the Hub (or it is private)"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"task.revision: the Hub has no revision {revision!r} of {name!r}") from error
    except RevisionResolutionError as error:
        raise UserError(
            f"task.data: the Hub data set {name!r} is not in the local cache and the Hub is out of reach; {_REMEDY}"
        ) from error
    return str(getattr(found, "resolved", found))


def local(task: TaskSpec) -> Path | None:
    """The local folder that `task.data` names, or None where it names a Hub data set (or nothing).

    Raises:
        UserError: it can be neither, or it is a path and has a revision, too.
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
    """The commit of the task's Hub data: what its revision or its fingerprint pins, else what the Hub says now."""
    name = task.data or data.name
    revision = task.revision or (data.revision if task.data is None else None)
    pinned = re.fullmatch(rf"{re.escape(name)}@({_COMMIT})(#.*)?", task.fingerprint or "")
    if pinned and not re.fullmatch(_COMMIT, revision or ""):
        return pinned.group(1)
    return commit_of(name, revision)


def fingerprint(task: TaskSpec, data: HubData) -> str:
    """Hash of the local files, or name@commit."""
    path = local(task)
    return hash_path(path) if path is not None else f"{task.data or data.name}@{commit(task, data)}"


def load(task: TaskSpec, data: HubData) -> Any:
    """The data set as `datasets.DatasetDict`: split -> Dataset.

    `datasets` keeps what it has read by path and modification time, which say nothing of the content. So it reads into
    a folder of its own within our cache, which is named by the fingerprint.

    Raises:
        UserError: it cannot be downloaded or loaded, with the reason.
    """
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    from datasets import load_from_disk

    content = fingerprint(task, data)

    def make(folder: Path) -> None:
        # On NFS a file that is still mapped cannot go at once.
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
    """What would have to be downloaded: judged by whether all files of the pinned commit are in the local cache."""
    if local(task) is not None:
        return []
    name = task.data or data.name
    try:
        pinned = commit(task, data)
    except UserError:
        return [f"data set {name} (run `tensloradist fetch`)"]
    return [] if _cached(name, pinned, data) else [f"data set {name}@{pinned} (run `tensloradist fetch`)"]


def _downloaded(task: TaskSpec, data: HubData) -> dict[str, list[Path]]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, pinned = task.data or data.name, commit(task, data)
    files = _cached(name, pinned, data)
    if files is not None:
        return files
    reason = f"it has no complete set of {' and '.join(data.patterns)}"
    try:
        snapshot_download(name, repo_type="dataset", revision=pinned, allow_patterns=data.patterns)
    except (LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
    files = _cached(name, pinned, data)
    if files is None:
        raise UserError(f"task.data: the Hub data set {name!r} at {pinned[:12]} cannot be had ({reason}); {_REMEDY}")
    return files


def _cached(name: str, pinned: str, data: HubData) -> dict[str, list[Path]] | None:
    """The files of that commit in the local cache, or None where any is missing. Never asks the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=pinned, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return _shards(Path(folder), data, name)


def _shards(folder: Path, data: HubData, name: str) -> dict[str, list[Path]] | None:
    """Split -> its parquet files, or None unless every split is there, with all of its shards.

    Raises:
        UserError: a split is in several folders, so it is not clear which is meant.
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
