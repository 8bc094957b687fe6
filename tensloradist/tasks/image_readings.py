"""What earlier versions read differently of a local copy of a named image set; see `pictures.reading_changes`.

It becomes part of the fingerprint, so that runs on the correct pixels are new runs. Data on the Hub is identified by
its commit, without reading its files: grey of more than 8 bits in it is refused when it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensloradist.caching import cached_json
from tensloradist.fingerprint import hash_bytes
from tensloradist.tasks.pictures import HEAD, file_reading_changes, reading_changes

_VERSION = 1  # of what is looked for in pictures


def is_read_deep(fingerprint: str) -> bool:
    """Whether, by its fingerprint, the data holds grey of more than 8 bits."""
    return "grey16" in fingerprint.split("+")[1:]


def data_reading_changes(data: Path, fingerprint: str) -> list[str]:
    """The words of all pictures in a folder or file of parquet or pictures; read once for each content."""

    def look() -> list[str]:
        return sorted({word for file in _files(data) for word in _changes(file)})

    key = hash_bytes(str(_VERSION), fingerprint)
    return [str(word) for word in cached_json("picture-changes", key, look)]


def _files(data: Path) -> Iterator[Path]:
    if data.is_file():
        yield data
    yield from (file for file in sorted(data.rglob("*")) if file.is_file())


def _changes(file: Path) -> set[str]:
    return _changes_in_parquet(file) if file.suffix == ".parquet" else set(file_reading_changes(str(file)))


def _changes_in_parquet(file: Path) -> set[str]:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    found: set[str] = set()
    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [field.name for field in table.schema_arrow if _holds_pictures(field.type)]
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for column in batch.columns:
                pictures = column.field("bytes")
                heads = pyarrow.compute.binary_slice(pictures, 0, HEAD).to_pylist()
                for at, head in enumerate(heads):
                    found.update(reading_changes(head or b"", pictures[at].as_py))
    except pyarrow.ArrowException:
        return set()  # loading a broken file reports what is wrong
    return found


def _holds_pictures(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind) and any(
        field.name == "bytes" and pyarrow.types.is_binary(field.type) for field in kind
    )
