"""Data sets on the Hugging Face Hub, pinned to a commit, or a local copy of one; loading is `datasets`' own."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_path
from tensloradist.tasks.progress import quiet_datasets

if TYPE_CHECKING:
    from tensloradist.spec import TaskSpec

_REMEDY = "run `tensloradist fetch` where the Hub can be reached, or give a local folder as task.data"


@lru_cache(maxsize=256)
def commit_of(name: str, revision: str | None) -> str:
    """The commit that a revision of a Hub data set means: asked of the Hub, or of the local cache when out of reach.

    Raises:
        UserError: neither knows it.
    """
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    reference = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "refs", revision or "main")
    try:
        found = HfApi().dataset_info(name, revision=revision).sha
        if found:
            return str(found)
    except HFValidationError as error:
        raise UserError(f"task.data: {name!r} is neither an existing path nor a Hub name ({error})") from error
    except RevisionNotFoundError as error:
        raise UserError(f"task.revision: the Hub has no revision {revision!r} of {name!r}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"task.data: {name!r} is neither an existing path nor a data set on the Hub") from error
    except OSError as error:  # no network, or offline mode: the cache's word is all there is
        if reference.is_file():
            return reference.read_text().strip()
        raise UserError(
            f"task.data: the Hub data set {name!r} is not in the local cache and the Hub is out of reach; {_REMEDY}"
        ) from error
    raise UserError(f"task.revision: the Hub names no commit for {name!r}")


def local(task: TaskSpec) -> Path | None:
    """The local folder or file that `task.data` names, or None where it names a Hub data set (or nothing)."""
    if task.data is None:
        return None
    path = Path(task.data)
    if path.exists():
        return path
    if path.is_absolute() or task.data.startswith(".") or task.data.count("/") != 1:
        raise UserError(f"task.data: {task.data}: no such file or folder")
    return None


def fingerprint(task: TaskSpec, default: str) -> str:
    """Hash of the local files, or name@commit."""
    path = local(task)
    if path is not None:
        return hash_path(path)
    name = task.data or default
    return f"{name}@{commit_of(name, task.revision)}"


def load(task: TaskSpec, default: str, config: str | None = None) -> Any:
    """The data set as `datasets.DatasetDict`: split -> Dataset.

    Raises:
        UserError: it cannot be loaded, with the reason.
    """
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    path = local(task)
    name = task.data or default
    try:
        if path is not None:
            with quiet_datasets():
                return load_dataset(str(path))
        return load_dataset(name, config, revision=commit_of(name, task.revision))
    except (DatasetNotFoundError, ValueError, OSError) as error:
        raise UserError(f"task.data: {name}: cannot be loaded ({str(error).splitlines()[0]}); {_REMEDY}") from error


def missing(task: TaskSpec, default: str) -> list[str]:
    """What would have to be downloaded: judged by whether the pinned commit is in the local cache."""
    if local(task) is not None:
        return []
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = task.data or default
    try:
        commit = commit_of(name, task.revision)
        snapshot_download(name, repo_type="dataset", revision=commit, local_files_only=True)
    except (LocalEntryNotFoundError, UserError):
        return [f"data set {name} (run `tensloradist fetch`)"]
    return []
