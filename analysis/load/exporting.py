"""Export the frame with its column dictionary as CSV, Parquet or JSON for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analysis.load.columns import COLUMNS
from tensloradist.errors import UserError
from tensloradist.files import write_replacing

FORMATS = ("csv", "parquet", "json")


def exported(frame: pd.DataFrame, form: str) -> bytes:
    """The content of the file. JSON includes the dictionary; Parquet stores it in the schema's metadata (`columns`).

    Raises:
        UserError: an unknown format.
    """
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()
    if form == "json":
        plain = frame.astype(object)
        rows = plain.where(plain.notna(), None).to_dict("records")
        return (json.dumps({"columns": dictionary(), "runs": rows}, indent=1, allow_nan=False) + "\n").encode()
    if form != "parquet":
        raise UserError(f"--format {form!r}: must be one of {', '.join(FORMATS)}")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"columns": json.dumps(dictionary()).encode()}
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def export(frame: pd.DataFrame, form: str, out: Path) -> list[Path]:
    """Write the file, with a column dictionary beside a CSV; returns the paths of all files."""
    write_replacing(out, exported(frame, form))
    if form != "csv":
        return [out]
    beside = out.with_suffix(".columns.csv")
    write_replacing(beside, pd.DataFrame.from_dict(dictionary(), orient="index").to_csv(index_label="column"))
    return [out, beside]


def dictionary() -> dict[str, dict[str, str]]:
    """Column -> its type, unit and meaning."""
    return {name: asdict(column) for name, column in COLUMNS.items()}
