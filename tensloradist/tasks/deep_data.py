"""Whether a local copy of a named image set holds grey of more than 8 bits, which earlier versions read as white.

Its fingerprint says so, so that runs on the right pixels are new ones. Data of the Hub is known by its commit alone,
without a look at its files: deep pictures in it are refused when they are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensloradist.caching import cached_json
from tensloradist.tasks.pictures import HEAD, is_deep, is_deep_file


def is_read_deep(fingerprint: str) -> bool:
    """Whether a fingerprint says that its data holds deep pictures."""
    return "grey16" in fingerprint.split("+")[1:]


def holds_deep_pictures(data: Path, fingerprint: str) -> bool:
    """Look into a folder or file of parquet or of pictures, once for each content."""
    return bool(cached_json("deep-pictures", fingerprint, lambda: any(_deep_in(file) for file in _files(data))))


def _files(data: Path) -> Iterator[Path]:
    if data.is_file():
        yield data
    yield from (file for file in sorted(data.rglob("*")) if file.is_file())


def _deep_in(file: Path) -> bool:
    return _deep_in_parquet(file) if file.suffix == ".parquet" else is_deep_file(str(file))


def _deep_in_parquet(file: Path) -> bool:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [field.name for field in table.schema_arrow if _holds_pictures(field.type)]
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for column in batch.columns:
                pictures = column.field("bytes")
                heads = pyarrow.compute.binary_slice(pictures, 0, HEAD).to_pylist()
                if any(head and is_deep(head, pictures[at].as_py) for at, head in enumerate(heads)):
                    return True
    except pyarrow.ArrowException:
        return False  # broken: loading says what is wrong
    return False


def _holds_pictures(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind) and any(
        field.name == "bytes" and pyarrow.types.is_binary(field.type) for field in kind
    )
