"""The local cache of what is decoded, tokenised or pretrained once: content-addressed, and only ever a cache.

An entry is a folder, or one JSON value, named by the hash of what it was made from. It is written under a temporary
name and renamed, so that several processes may make the same entry at once and a reader never sees half of one.
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
# What libraries write below the home, by the variable that moves it. The Hub's models and data sets, which are only
# read, stay where they are: a home is often read-only where jobs run.
_LIBRARIES = {
    "HF_DATASETS_CACHE": "datasets",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TRITON_CACHE_DIR": "triton",
    "MPLCONFIGDIR": "matplotlib",
}


def cache_root() -> Path:
    """TENSLORADIST_CACHE; else ~/.cache/tensloradist; else, where that cannot be written, a private folder in TMPDIR.

    Raises:
        UserError: TENSLORADIST_CACHE is not set, and neither of the others can be written.
    """
    root = _root()
    home = _home_cache()
    if not os.environ.get("TENSLORADIST_CACHE") and root.parent != home:
        _warn_once(f"{home or 'The home'} cannot be written: the cache is {root}; set TENSLORADIST_CACHE for another")
    return root


def redirect_libraries() -> None:
    """Let other libraries' caches be ours where the user's ~/.cache cannot be written, unless the user placed them."""
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
    """Raise UserError with the variable that moves the cache where it cannot be written. A full disk stays OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise UserError(
            f"TENSLORADIST_CACHE: the cache {cache_root()} cannot be written ({error.strerror}); set it to a folder "
            "that can be"
        ) from error


def _can_be_written(folder: Path | None) -> bool:
    """Whether it is a folder that can be written, or could be made one. Makes nothing."""
    if folder is None:
        return False
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """The user's own folder for temporary files. Another user may have made one of its name, or a link: not trusted."""
    remedy = "set TENSLORADIST_CACHE to a folder that can be written"
    try:
        folder = Path(tempfile.gettempdir()) / f"tensloradist-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"Neither the home nor a temporary folder can be written ({error}); {remedy}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(f"The home cannot be written, and {folder} is not this user's alone; {remedy}")
    return folder


@lru_cache
def _warn_once(message: str) -> None:
    log.warning(message)


def entry_path(kind: str, key: str) -> Path:
    return cache_root() / kind / key


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of the entry; `make(folder)` fills it if it is not there yet.

    Raises:
        UserError: the cache cannot be written.
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
        shutil.rmtree(temporary, ignore_errors=True)  # left over only when another process was first, or make failed
    return final


@contextmanager
def one_at_a_time(kind: str) -> Iterator[None]:
    """Within it, no other process of this machine makes large entries of this kind: it waits, and then finds them made.

    Where the file system has no locks on folders (NFS), several may make the same entry, and one is kept.
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
        log.info("another process is filling %s: waiting for it", folder)
        fcntl.flock(held, fcntl.LOCK_EX)


def cached_json(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """The entry's value, which `make()` gives where there is none; made each time where no cache can be written."""
    path = entry_path(kind, key).with_suffix(".json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not made yet, or damaged
        value = make()
    with suppress(OSError):
        write_replacing(path, json.dumps(value))
    return value
