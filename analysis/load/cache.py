"""A Parquet cache of results that were read and validated.

A cached row is valid while its file has the same times, size and inode, because published results never change. A cache
that is missing, damaged or written by other code is ignored and written again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pandas as pd

from analysis.load import columns
from analysis.load.columns import MEASURED, Column
from tensloradist import records
from tensloradist.caching import entry_path
from tensloradist.files import write_replacing
from tensloradist.results import publish, schema, standing

RUN = {"run_id": Column("str", "", "")}
STAMP = ("mtime_ns", "ctime_ns", "size", "inode")
Stamp = tuple[int, int, int, int]
MAKERS = tuple(  # the code that reads and validates results; changing it invalidates the cache
    Path(module.__file__ or "") for module in (columns, publish, records, schema, standing)
) + tuple(Path(__file__).with_name(name) for name in ("outcomes.py", "cache.py"))
log = logging.getLogger("tensloradist")


def stamp_of(path: Path | str) -> Stamp | None:
    """A stamp that identifies a file's content without reading it; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:  # missing or unreachable; reading the file reports it
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def cache_path(root: Path) -> Path:
    """The cache file of one results folder, in the user's own cache because the folder may be read-only or shared."""
    return entry_path("analysis", hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]).with_suffix(".parquet")


def read_cache(root: Path) -> pd.DataFrame | None:
    """Rows by run_id with the stamps of their files; None if there is no usable cache."""
    import pyarrow
    import pyarrow.parquet

    path = cache_path(root)
    if not path.exists():
        return None
    try:
        table = pyarrow.parquet.read_table(path)
        if (table.schema.metadata or {}).get(b"made_by") != _made_by():
            return None
        frame = table.to_pandas()[["run_id", *STAMP, *MEASURED]]
        frame = frame.astype({name: column.type for name, column in (RUN | MEASURED).items()})
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        log.info("%s: ignored because it is damaged (%s)", path, error)
        return None
    return frame.set_index("run_id", drop=False)


def write_cache(root: Path, frame: pd.DataFrame) -> None:
    """Replace the cache. If it cannot be written, results are simply read again next time."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"made_by": _made_by()})
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    try:
        write_replacing(cache_path(root), buffer.getvalue().to_pybytes())
    except OSError as error:
        log.info("%s: cannot be written (%s)", cache_path(root), error)


def _made_by() -> bytes:
    return hashlib.sha256(b"".join(path.read_bytes() for path in MAKERS)).hexdigest().encode()
