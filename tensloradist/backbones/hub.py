"""Models on the Hugging Face Hub: which files of a commit are fetched, and where they are."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from tensloradist import hub
from tensloradist.errors import UserError

# Configuration and preprocessing; weights, but no pickles and none of other frameworks.
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


def commit_of(name: str, revision: str | None) -> str:
    """The commit that a model's name and revision mean. Raises UserError as `hub.commit_of`."""
    return hub.commit_of(hub.MODEL, name, revision)


def split_fingerprint(fingerprint: str | None, name: str) -> str | None:
    """The commit in a fingerprint `name@commit` (and perhaps `+` words of reading), or None if it has another name."""
    match = re.fullmatch(rf"{re.escape(name)}@([0-9a-f]{{40}})(\+.*)?", fingerprint or "")
    return match.group(1) if match else None


def _files_of(name: str, commit: str, weights: bool) -> hub.Snapshot:
    patterns = [*PATTERNS, *(_WEIGHTS if weights else ())]
    return hub.Snapshot(kind=hub.MODEL, name=name, commit=commit, patterns=patterns, except_for=_IN_SUBFOLDERS)


def _complete(folder: Path, weights: bool) -> Path | None:
    has_weights = not weights or any(folder.glob("*.safetensors"))
    return folder if has_weights and (folder / "config.json").is_file() else None


def cached_snapshot(name: str, commit: str, weights: bool = True) -> Path | None:
    """The local folder of that commit if it has a configuration (and weights), else None. Never asks the Hub."""
    return _files_of(name, commit, weights).cached(partial(_complete, weights=weights))


def snapshot(name: str, commit: str, weights: bool = True) -> Path:
    """The local folder of that commit, with or without its weights, downloaded where the cache does not have it.

    Raises:
        UserError: it is not in the cache and cannot be downloaded, or it has no safetensors weights.
    """
    lacking = "config.json with safetensors weights (pickled weights are not loaded)" if weights else "config.json"
    return _files_of(name, commit, weights).fetched(partial(_complete, weights=weights), lacking)


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
            f"and cannot be downloaded ({str(error).splitlines()[0]}). {hub.MODEL.remedy}"
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
            f"downloaded ({str(error).splitlines()[0]}). {hub.MODEL.remedy}"
        ) from error
