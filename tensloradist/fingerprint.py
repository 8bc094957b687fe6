"""Hashes of files, folders and tensors: what identity and provenance are made of. It knows nothing of specs.

A path enters a hash only relative to the folder that is hashed, never absolutely, so that two users and two clusters
agree. A file is read once in a process, and again when anything may have been written to it.
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


# Seconds for which a file that was just changed is hashed again each time: a second change within one tick of the
# file system's clock leaves the same times.
_SETTLED = 2.0

_SUMMED = 2048  # bytes of a tensor that share a sum of `checksum`

_known: dict[str, tuple[tuple[int, ...], str]] = {}  # path -> what the file was like, and the hash of its content


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, remembered as long as its status says that nothing was written.

    The time of modification alone would not do, since `cp -p`, `rsync -t`, `tar` and `touch` set it. The kernel sets
    the time of the status change (ctime), and nobody else can. Raises UserError where the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())  # of what is open: network file systems are asked anew
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
    """SHA-256 of a file's content, read now. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_bytes(*parts: bytes | str) -> str:
    """Hash of a sequence of byte strings or texts; where one part ends and the next begins matters."""
    digest = hashlib.sha256()
    for part in parts:
        # A name that is not UTF-8 has lone surrogates for its bytes.
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:DIGITS]


def read_anew(fingerprint: str, changes: Iterable[str]) -> str:
    """The fingerprint of an input that is read differently than by earlier versions, so that its runs are new ones.

    Args:
        fingerprint: of the input's content.
        changes: a fixed word for each change of reading that matters to this input, e.g. "grey16"; none: the input was
            read correctly all along, and its fingerprint stays.
    """
    words = sorted(set(changes))
    return f"{fingerprint}+{'+'.join(words)}" if words else fingerprint


def why_changed(planned: str, found: str) -> str:
    """Why a fingerprint is not the one that a run was planned with: the content, or how this version reads it."""
    if is_read_anew(planned, found):
        _, *words = found.split("+")
        return f"is read differently than by the version that planned the run ({', '.join(words) or 'as before'})"
    return "has changed since the run was planned"


def is_read_anew(planned: str, found: str) -> bool:
    """Whether two fingerprints are of the same content, which this version reads differently."""
    return planned != found and planned.split("+")[0] == found.split("+")[0]


def hash_path(path: str | os.PathLike[str], include: Callable[[str], bool] | None = None) -> str:
    """Hash of a file's content, or of a folder's relative file names and their contents.

    Hidden files and folders (a leading dot) do not count, nor does anything about the folder but names and contents.
    Symbolic links are followed, but for those that lead back to a folder that holds them.

    Args:
        path: a file or a folder.
        include: of a folder, only the files whose relative name (with `/`) it accepts; None: all.

    Raises:
        UserError: the path does not exist, cannot be read, or is a folder without any such file.
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
    """Hash of files' names and contents, in the order of the names: a folder's, given (relative name, file) of each."""
    return hash_bytes(*(part for name, found in sorted(files) for part in (name, digest_of(found))))


def statuses(path: Path) -> Iterable[tuple[str, int, int, int, int, float]]:
    """(name, device, inode, bytes, nanoseconds of the last write, seconds of the status change) of what is hashed.

    Of a file or of all files of a folder, as for `hash_path`. Raises OSError for one that is not there.
    """
    root = path.expanduser().absolute()
    for name, file in _walk(root) if root.is_dir() else [("", root)]:
        found = file.stat()
        yield name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime


def _walk(root: Path) -> Iterable[tuple[str, Path]]:
    above = {str(root): frozenset([os.path.realpath(root)])}  # a folder -> itself and what holds it, without links
    for folder, folders, names in os.walk(root, followlinks=True):
        holding = above.pop(folder)
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in real if real[name] not in holding]  # others lead back to where they are
        above |= {os.path.join(folder, name): holding | {real[name]} for name in folders}
        for name in names:
            if not name.startswith("."):
                found = Path(folder, name)
                yield found.relative_to(root).as_posix(), found


class TensorHash:
    """The hash of named tensors that are shown to it one after another, in the order of their names."""

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
    """A checksum of a tensor's type, shape and bits, taken on its own device: 64-bit sums of each 2 KiB.

    It tells whether a tensor was written, by whatever means, in a fraction of the time that SHA-256 takes. It is no
    identity: a tensor whose neighbouring values have changed places has the same. Strides and device do not matter.
    """
    import torch

    plain = tensor.detach().contiguous()
    data = plain.reshape(-1).view(torch.uint8)
    if data.storage_offset() % 8:  # a part of another tensor, which cannot be read as whole words
        data = data.clone()
    whole = data.numel() - data.numel() % _SUMMED
    sums = data[:whole].view(torch.int64).view(-1, _SUMMED // 8).sum(1)  # exact, in any order, modulo 2^64
    digest = hashlib.sha256(f"{plain.dtype}|{tuple(plain.shape)}|".encode())
    for part in (sums.view(torch.uint8), data[whole:]):
        digest.update(part.cpu().numpy().data)
    return digest.hexdigest()[:DIGITS]


def hash_tensors(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash of named tensors: names, dtypes, shapes and exact bits, in the order of the names.

    Takes a state dict or `model.named_parameters()`; where the tensors lie (CPU, GPU, strides) does not matter.
    """
    found = TensorHash()
    for name, tensor in sorted(tensors.items() if isinstance(tensors, Mapping) else tensors, key=lambda item: item[0]):
        found.add(name, tensor)
    return found.digits()
