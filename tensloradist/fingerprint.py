"""Hashes of files, folders and tensors, on which identity and provenance build.

Only paths relative to the hashed folder enter a hash, so that two users and two clusters agree. A process reads a file
once, and again only if the file may have been written to.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist.errors import DataMissing, UserError

if TYPE_CHECKING:
    import torch

DIGITS = 32  # hexadecimal digits kept of a SHA-256: 128 bits


# Seconds during which a recently changed file is hashed again each time, because a second change within one tick of the
# file system's clock leaves the same times.
_SETTLED = 2.0

_SUMMED = 2048  # bytes of a tensor behind each sum in `checksum`

_known: dict[str, tuple[tuple[int, ...], str]] = {}  # path -> the file's status, and the hash of its content


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, remembered while its status shows no write. Raises UserError if unreadable.

    The modification time is not enough, because `cp -p`, `rsync -t`, `tar` and `touch` set it. Only the kernel can set
    the time of the status change (ctime).
    """
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())  # of the open file: not cached by network file systems
            seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            known = _known.get(str(path))
            if known is not None and known[0] == seen:
                return known[1]
            began = time.time()
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if began - status.st_ctime > _SETTLED:
        _known[str(path)] = (seen, digest)
    return digest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, always read. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_bytes(*parts: bytes | str) -> str:
    """Hash of a sequence of byte strings or texts; the boundaries between parts matter."""
    digest = hashlib.sha256()
    for part in parts:
        # File names that are not UTF-8 contain lone surrogates.
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:DIGITS]


def read_anew(fingerprint: str, changes: Iterable[str]) -> str:
    """The fingerprint of an input that this version reads differently than earlier ones, so that its runs are new.

    Args:
        fingerprint: the hash of the input's content.
        changes: a fixed word for each change that affects this input, such as "grey16"; without any, the fingerprint
            stays the same.
    """
    words = sorted(set(changes))
    return f"{fingerprint}+{'+'.join(words)}" if words else fingerprint


def why_changed(planned: str, found: str) -> str:
    """Why a fingerprint differs from the planned one: the content changed, or this version reads it differently."""
    if is_read_anew(planned, found):
        _, *words = found.split("+")
        return f"is read differently than by the version that planned the run ({', '.join(words) or 'as before'})"
    return "has changed since the run was planned"


def is_read_anew(planned: str, found: str) -> bool:
    """Whether two fingerprints differ only in how the same content is read."""
    return planned != found and planned.split("+")[0] == found.split("+")[0]


def hash_path(path: str | os.PathLike[str], include: Callable[[str], bool] | None = None) -> str:
    """Hash of a file's content, or of the relative names and contents of a folder's files.

    Hidden files and folders (a leading dot) are ignored, as is everything except names and contents. Symbolic links are
    followed, except those that lead back to a folder that contains them.

    Args:
        path: a file or a folder.
        include: accepts relative names (with `/`) of a folder's files to hash; None: all.

    Raises:
        UserError: the path does not exist, is unreadable, or is a folder without such files.
    """
    root = Path(path).expanduser().absolute()
    if root.is_file():
        return digest_of(root)[:DIGITS]
    if not root.is_dir():
        raise DataMissing(f"{path}: no such file or folder")
    files = [(name, found) for name, found in _walk(root) if include is None or include(name)]
    if not files:
        raise UserError(f"{path}: the folder has no files to hash")
    return hash_files(files)


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """Hash of (relative name, file) pairs in the order of names, equal to the hash of a folder with these files."""
    return hash_bytes(*(part for name, found in sorted(files) for part in (name, digest_of(found))))


def statuses(path: Path) -> Iterable[tuple[str, int, int, int, int, float]]:
    """(name, device, inode, bytes, nanoseconds of the last write, seconds of the status change) of each hashed file.

    The path is a file or a folder, as for `hash_path`. Raises OSError if it does not exist.
    """
    root = path.expanduser().absolute()
    for name, file in _walk(root) if root.is_dir() else [("", root)]:
        found = file.stat()
        yield name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime


def _walk(root: Path) -> Iterable[tuple[str, Path]]:
    above = {str(root): frozenset([os.path.realpath(root)])}  # folder -> it and its parents, with links resolved
    for folder, folders, names in os.walk(root, followlinks=True):
        holding = above.pop(folder)
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in real if real[name] not in holding]  # skips links back to a parent
        above |= {os.path.join(folder, name): holding | {real[name]} for name in folders}
        for name in names:
            if not name.startswith("."):
                found = Path(folder, name)
                yield found.relative_to(root).as_posix(), found


class TensorHash:
    """The hash of named tensors, added one by one in the order of their names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        plain = tensor.detach().to("cpu").contiguous()
        self._digest.update(f"{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        self._digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)

    def digits(self) -> str:
        return self._digest.hexdigest()[:DIGITS]


def checksum(tensor: torch.Tensor) -> str:
    """A checksum of a tensor's type, shape and bits, computed on its device from 64-bit sums of each 2 KiB.

    It detects writes to a tensor in a fraction of the time of SHA-256. It is not an identity: swapping neighbouring
    values does not change it. Strides and device do not matter.
    """
    import torch

    plain = tensor.detach().contiguous()
    data = plain.reshape(-1).view(torch.uint8)
    if data.storage_offset() % 8:  # unaligned, so it cannot be viewed as whole words
        data = data.clone()
    whole = data.numel() - data.numel() % _SUMMED
    sums = data[:whole].view(torch.int64).view(-1, _SUMMED // 8).sum(1)  # modulo 2^64, so exact in any order
    digest = hashlib.sha256(f"{plain.dtype}|{tuple(plain.shape)}|".encode())
    for part in (sums.view(torch.uint8), data[whole:]):
        digest.update(part.cpu().numpy().data)
    return digest.hexdigest()[:DIGITS]


def hash_tensors(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash of named tensors (a state dict or `model.named_parameters()`): names, dtypes, shapes and exact bits.

    The order of the tensors, their device and their strides do not matter.
    """
    found = TensorHash()
    for name, tensor in sorted(tensors.items() if isinstance(tensors, Mapping) else tensors, key=lambda item: item[0]):
        found.add(name, tensor)
    return found.digits()
