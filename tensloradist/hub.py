"""Repositories on the Hugging Face Hub, pinned to a commit and used from huggingface_hub's cache, offline too.

Everything goes through huggingface_hub; what is added here is what a user must be told when it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from tensloradist.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of repository, and the fields of a specification that name one.

    Attributes:
        type: huggingface_hub's word for it.
        what: ours.
        name_field, revision_field: for messages.
    """

    type: Literal["model", "dataset"]
    what: str
    name_field: str
    revision_field: str

    @property
    def remedy(self) -> str:
        return (
            "Run `tensloradist fetch` where the Hub can be reached, give a local folder instead, or set "
            f"{self.revision_field} to a commit that is in the cache"
        )


MODEL = Kind(type="model", what="model", name_field="backbone.name", revision_field="backbone.revision")
DATA_SET = Kind(type="dataset", what="data set", name_field="task.data", revision_field="task.revision")


@lru_cache(maxsize=1024)
def commit_of(kind: Kind, name: str, revision: str | None) -> str:
    """The commit that a name and revision mean, asked of the Hub, or of the local cache where the Hub is out of reach.

    Asked once in a process, so that all runs of a plan agree.

    Raises:
        UserError: no such repository or revision, or neither the Hub nor the cache knows it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    field = kind.name_field
    shown = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        found = HfApi().resolve_revision(name, repo_type=kind.type, revision=revision)
    except HFValidationError as error:
        raise UserError(f"{field}: {name!r} is neither an existing path nor a Hub name ({error})") from error
    except GatedRepoError as error:
        raise UserError(
            f"{field}: the Hub gives {shown} only to those who accepted its terms; log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{field}: {name!r} is neither an existing path nor a {kind.what} on the Hub (or it is private)"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{kind.revision_field}: the Hub has no revision {revision!r} of {name!r}") from error
    except RevisionResolutionError as error:
        raise UserError(
            f"{field}: {shown} is neither an existing path nor in the local Hub cache, and the Hub is out of reach. "
            f"{kind.remedy}"
        ) from error
    return str(getattr(found, "resolved", found))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Some files of one commit of a repository."""

    kind: Kind
    name: str
    commit: str
    patterns: Sequence[str]
    except_for: Sequence[str] = ()

    def cached(self, read: Callable[[Path], T | None]) -> T | None:
        """What `read` makes of the commit's folder in the local cache; None where that, or a file, is missing.

        Never asks the Hub.

        Args:
            read: returns None where the folder is not complete.
        """
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return read(self._folder(offline=True))
        except LocalEntryNotFoundError:
            return None

    def fetched(self, read: Callable[[Path], T | None], lacking: str) -> T:
        """As `cached`, downloading the files where the cache does not have them all.

        Args:
            lacking: what is missing where `read` returns None although all is downloaded.

        Raises:
            UserError: they cannot be downloaded, or the commit lacks some.
        """
        found = self.cached(read)
        if found is not None:
            return found
        where = f"{self.kind.name_field}: {self.name!r} at {self.commit[:12]}"
        try:
            self._folder(offline=False)
        except OSError as error:  # huggingface_hub's errors are, too
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{where} is not in the local Hub cache and cannot be downloaded ({reason}). {self.kind.remedy}"
            ) from error
        found = self.cached(read)
        if found is None:
            raise UserError(f"{where}: neither the local Hub cache nor the download has {lacking}. {self.kind.remedy}")
        return found

    def _folder(self, offline: bool) -> Path:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            self.name,
            repo_type=self.kind.type,
            revision=self.commit,
            allow_patterns=list(self.patterns),
            ignore_patterns=list(self.except_for),
            local_files_only=offline,
        )
        return Path(folder)
