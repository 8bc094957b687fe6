"""The images of a data set as pixels: decoded and resized once, by several threads, into a content-addressed cache.

The cache is a mapped file of uint8, which takes no memory of its own. If the disk has no room for it, images are
decoded each time they are used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist.caching import cache_root, cached_folder, entry_path, one_at_a_time
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes
from tensloradist.prefetching import prefetch, threads_here
from tensloradist.tasks.image_folders import shown
from tensloradist.tasks.image_readings import is_read_deep
from tensloradist.tasks.pictures import BROKEN, UnsupportedPicture, rgb
from tensloradist.tasks.preprocessing import ImagePreprocessing
from tensloradist.tasks.progress import tracked

if TYPE_CHECKING:
    from tensloradist.spec import TaskSpec

log = logging.getLogger(__name__)
CACHE_SHARE = 0.5  # of the cache's free disk space that decoded pixels may take; above, images are decoded when used
_VERSION = 3  # of the cache's layout and of how images are resized


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Every image of a data set before the split.

    Attributes:
        ids: a name for each image.
        labels: (n,) an index into `classes` for each image.
        pictures: each image's path, or the mapping that `datasets` has: {"path", "bytes"}.
        digests: each image's SHA-256, if `pictures` are paths, whose files may be replaced; else None.
        parts: the data set's own split of each image; None if it has none.
        sources: part -> its name in the data set.
        notes: what a user should know of the data, one sentence each.
    """

    ids: list[str]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    pictures: Sequence[Any]
    digests: list[str] | None
    parts: list[str] | None
    sources: dict[str, str]
    notes: tuple[str, ...] = ()


def decoded(listing: Listing, index: int, task: TaskSpec, how: ImagePreprocessing, deep: bool) -> npt.NDArray[np.uint8]:
    """uint8 (3, size, size) of one image; `deep`: whether grey of more than 8 bits may occur in this data."""
    from PIL import Image as Pillow

    try:
        image = rgb(_source(listing, index, task), on_white=how.on_white, deep=deep)
        return np.asarray(how.resized(image), dtype=np.uint8).transpose(2, 0, 1)
    except (*BROKEN, Pillow.DecompressionBombError) as error:
        name = f"task.data: {task.data or task.name}: the image {shown(listing.ids[index])}"
        if isinstance(error, UnsupportedPicture):
            raise UserError(f"{name} is not supported: {error}") from error
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        if isinstance(error, Pillow.UnidentifiedImageError):  # whose message names the stream in memory
            reason = "its content is not a picture in a format that Pillow knows"
        raise UserError(f"{name} cannot be read ({reason}); repair or remove it") from error


def _source(listing: Listing, index: int, task: TaskSpec) -> str | bytes:
    """The bytes of one image, or its path if `datasets` has only that.

    Raises:
        UserError: the picture was replaced since the data was listed.
    """
    found = listing.pictures[index]
    if listing.digests is None:
        return found["bytes"] or found["path"]
    content = Path(found).read_bytes()
    if hashlib.sha256(content).hexdigest() != listing.digests[index]:
        raise UserError(
            f"task.data: {task.data}: the image {shown(listing.ids[index])} was replaced while the data was in use; "
            "start again, so that its fingerprint is taken anew"
        )
    return content


def cached_pixels(
    listing: Listing, task: TaskSpec, how: ImagePreprocessing, data_fingerprint: str, now: Callable[[], str]
) -> Any:
    """uint8 (n, 3, size, size), mapped from the cache, or None if the disk has no room for them.

    Args:
        now: gives the data's fingerprint after decoding, so that pixels of changed files are never cached under it.
    """

    def make(folder: Path) -> None:
        shape = (len(listing.ids), 3, how.size, how.size)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        deep, what = is_read_deep(data_fingerprint), f"decoding {task.data or task.name}"

        def content(index: int) -> bytes:
            return decoded(listing, index, task, how, deep).tobytes()

        # Written, not mapped: on a full disk a write is an error, but a mapped page kills the process.
        with (folder / "pixels.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            with closing(prefetch(tracked(range(shape[0]), what), content, threads_here())) as pictures:
                file.writelines(pictures)
        _require_same(now(), data_fingerprint, task)
        (folder / "ids.json").write_text(json.dumps(listing.ids), encoding="utf-8")

    import PIL

    # The ids are part of the key, since two tasks may read different splits of one data set.
    geometry = json.dumps(how.geometry(), sort_keys=True)
    key = hash_bytes("images", str(_VERSION), PIL.__version__, data_fingerprint, geometry, *listing.ids)
    entry, size = entry_path("images", key), len(listing.ids) * 3 * how.size**2
    if not entry.is_dir():
        try:
            with one_at_a_time("images"):
                if entry.is_dir() or _has_room(size, task):
                    cached_folder("images", key, make)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("%s", _decoded_each_time(size, task, error.strerror or "no space left"))
    if not entry.is_dir():
        _require_same(now(), data_fingerprint, task)  # so the digests listed are those of the fingerprint
        return None
    return np.load(entry / "pixels.npy", mmap_mode="r")


def _has_room(size: int, task: TaskSpec) -> bool:
    free = shutil.disk_usage(cache_root()).free
    if size <= CACHE_SHARE * free:
        return True
    log.warning("%s", _decoded_each_time(size, task, f"{free / 2**30:.1f} GiB are free"))
    return False


def _decoded_each_time(size: int, task: TaskSpec, reason: str) -> str:
    return (
        f"task.data: {task.data or task.name}: no room for {size / 2**30:.1f} GiB of decoded images in {cache_root()} "
        f"({reason}): they are decoded anew in every epoch, which may be slower than training; set TENSLORADIST_CACHE "
        "to a folder with twice that much space"
    )


def _require_same(now: str, data_fingerprint: str, task: TaskSpec) -> None:
    if now != data_fingerprint:
        raise UserError(f"task.data: {task.data} has changed while it was read; start again when it is complete")
