"""The local, content-addressed cache of decoded, tokenised and pretrained data. It can be deleted at any time.

An entry is a folder or a JSON value, named by the hash of its inputs. It is written under a temporary name and renamed,
so several processes may make the same entry at once and a reader never sees a partial one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from tensloradist.errors import UserError
from tensloradist.files import write_replacing

log = logging.getLogger(__name__)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
# Environment variable -> our folder, for caches that libraries write below the home, which is often read-only in jobs.
# The Hub's models and data sets stay where they are, because they are only read.
_LIBRARIES = {
    "HF_DATASETS_CACHE": "datasets",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TRITON_CACHE_DIR": "triton",
    "MPLCONFIGDIR": "matplotlib",
}


def cache_root() -> Path:
    """TENSLORADIST_CACHE; else ~/.cache/tensloradist; else, if that is not writable, a private folder in TMPDIR.

    Raises:
        UserError: TENSLORADIST_CACHE is not set, and neither of the others is writable.
    """
    root = _root()
    home = _home_cache()
    if not os.environ.get("TENSLORADIST_CACHE") and root.parent != home:
        _warn_once(f"{home or 'The home'} is not writable, so the cache is {root}; set TENSLORADIST_CACHE to move it")
    return root


def redirect_libraries() -> None:
    """Move other libraries' caches into ours if ~/.cache is not writable, unless the user has placed them."""
    given = os.environ.get("XDG_CACHE_HOME")
    if _can_be_written(Path(given) if given else _home_cache()):
        return
    for variable, folder in _LIBRARIES.items():
        if variable != "HF_DATASETS_CACHE" or not os.environ.get("HF_HOME"):
            os.environ.setdefault(variable, str(_root() / "libraries" / folder))


def _home_cache() -> Path | None:
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry for the user
        return None


def _root() -> Path:
    given = os.environ.get("TENSLORADIST_CACHE")
    if given:
        return Path(given)
    home = _home_cache()
    if home is not None and _can_be_written(home / "tensloradist"):
        return home / "tensloradist"
    return _private_folder()


@contextmanager
def writing_cache() -> Iterator[None]:
    """Turn a failure to write the cache into a UserError with the remedy. A full disk remains an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise UserError(
            f"TENSLORADIST_CACHE: the cache {cache_root()} is not writable ({error.strerror}); set it to a writable "
            "folder"
        ) from error


def _can_be_written(folder: Path | None) -> bool:
    """Whether it is a writable folder, or could be created. Creates nothing."""
    if folder is None:
        return False
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """The user's own temporary folder. A folder or link of that name made by another user is not trusted."""
    remedy = "set TENSLORADIST_CACHE to a writable folder"
    try:
        folder = Path(tempfile.gettempdir()) / f"tensloradist-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"Neither the home nor a temporary folder is writable ({error}); {remedy}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(f"The home is not writable, and others can access {folder}; {remedy}")
    return folder


@lru_cache
def _warn_once(message: str) -> None:
    log.warning(message)


def entry_path(kind: str, key: str) -> Path:
    return cache_root() / kind / key


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of the entry; `make(folder)` fills it if it does not exist yet.

    Raises:
        UserError: the cache is not writable.
    """
    final = entry_path(kind, key)
    if final.is_dir():
        return final
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    with writing_cache():
        temporary.mkdir(parents=True)
    try:
        make(temporary)
        try:
            os.rename(temporary, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # exists only if another process was first, or make failed
    return final


@contextmanager
def one_at_a_time(kind: str) -> Iterator[None]:
    """Let only one process of this machine make large entries of this kind; the others wait and then find them.

    On file systems without folder locks (NFS), several processes may make the same entry, of which one is kept.
    """
    folder = cache_root() / kind
    with writing_cache():
        folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            _lock(held, folder)
        except OSError as error:
            log.debug("%s cannot be locked: %s", folder, error)
        yield
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("waiting for another process that is filling %s", folder)
        fcntl.flock(held, fcntl.LOCK_EX)


def cached_json(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """The entry's value, or `make()`'s if there is none; computed every time if the cache is not writable."""
    path = entry_path(kind, key).with_suffix(".json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # does not exist, or is damaged
        value = make()
    with suppress(OSError):
        write_replacing(path, json.dumps(value))
    return value
