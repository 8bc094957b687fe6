"""Models on the Hugging Face Hub: pinning a revision to a commit, fetching it, and using it offline.

Everything goes through huggingface_hub and its cache; what is added here is what a user must be told when it fails.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from tensloradist.errors import UserError

# Configuration and preprocessing; weights, but never pickles, and none of other frameworks.
PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_IN_SUBFOLDERS = ("*/*",)
_REMEDY = (
    "Run `tensloradist fetch` where the Hub can be reached, give a local folder instead, or pin "
    "backbone.revision to a commit that is in the cache"
)


@lru_cache(maxsize=1024)
def commit_of(name: str, revision: str | None) -> str:
    """The commit that a Hub name and revision mean, asked of the Hub, or of the local cache where it is out of reach.

    Asked once in a process, so that all runs of a plan agree.

    Raises:
        UserError: no such model or revision, or neither the Hub nor the cache knows it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    shown = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        found = HfApi().resolve_revision(name, revision=revision)
    except HFValidationError as error:
        raise UserError(f"backbone.name: {name!r} is neither an existing path nor a Hub name ({error})") from error
    except GatedRepoError as error:
        raise UserError(
            f"backbone.name: the Hub gives {shown} only to those who accepted its terms; log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"backbone.name: {name!r} is neither an existing path nor a model on the Hub (or it is private)"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"backbone.revision: the Hub has no revision {revision!r} of {name!r}") from error
    except RevisionResolutionError as error:
        raise UserError(
            f"backbone.name: {shown} is no existing path, is not in the local Hub cache, and the Hub is "
            f"out of reach. {_REMEDY}"
        ) from error
    return str(getattr(found, "resolved", found))


def split_fingerprint(fingerprint: str | None, name: str) -> str | None:
    """The commit in a fingerprint `name@commit` (and perhaps `+` words of reading), or None if it has another name."""
    match = re.fullmatch(rf"{re.escape(name)}@([0-9a-f]{{40}})(\+.*)?", fingerprint or "")
    return match.group(1) if match else None


def _patterns(weights: bool) -> list[str]:
    return [*PATTERNS, *(_WEIGHTS if weights else ())]


def cached_snapshot(name: str, commit: str, weights: bool = True) -> Path | None:
    """The local folder of that commit if it has a configuration (and weights), else None. Never asks the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=commit,
                allow_patterns=_patterns(weights),
                ignore_patterns=list(_IN_SUBFOLDERS),
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    complete = (folder / "config.json").is_file() and (not weights or any(folder.glob("*.safetensors")))
    return folder if complete else None


def snapshot(name: str, commit: str, weights: bool = True) -> Path:
    """The local folder of that commit, with or without its weights, downloaded where the cache does not have it.

    Raises:
        UserError: it is not in the cache and cannot be downloaded, or it has no safetensors weights.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    folder = cached_snapshot(name, commit, weights)
    if folder is not None:
        return folder
    try:
        snapshot_download(
            name, revision=commit, allow_patterns=_patterns(weights), ignore_patterns=list(_IN_SUBFOLDERS)
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise UserError(
            f"backbone.name: {name!r} at {commit[:12]} is not in the local Hub cache and cannot be "
            f"downloaded ({str(error).splitlines()[0]}). {_REMEDY}"
        ) from error
    folder = cached_snapshot(name, commit, weights)
    if folder is None:
        raise UserError(
            f"backbone.name: {name!r} at {commit[:12]} has no config.json with safetensors weights; "
            "pickled weights are not loaded"
        )
    return folder


def config_folder(name: str, commit: str) -> Path:
    """A local folder with the commit's config.json, downloading that one file at most.

    Raises:
        UserError: it is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(name, "config.json", revision=commit)).parent
    except (EntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise UserError(
            f"backbone.name: the config.json of {name!r} at {commit[:12]} is not in the local Hub cache "
            f"and cannot be downloaded ({str(error).splitlines()[0]}). {_REMEDY}"
        ) from error


def optional_file(name: str, commit: str, file: str) -> Path | None:
    """A file of the commit, downloading it at most, or None where the commit has none.

    Raises:
        UserError: it may have one, and the Hub is out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=commit))
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        if cached_snapshot(name, commit, weights=False) is not None:
            return None  # all that the commit has of PATTERNS was fetched
        raise UserError(
            f"backbone.name: the {file} of {name!r} at {commit[:12]} is not in the local Hub cache and cannot be "
            f"downloaded ({str(error).splitlines()[0]}). {_REMEDY}"
        ) from error
