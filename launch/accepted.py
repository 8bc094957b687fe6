"""What Slurm has accepted of a sweep's launches, as files: one for each job array, and `slurm.json` once all are in.

The former are written as soon as sbatch has answered, so that jobs of a launch that was interrupted are known to every
command; where the summary is missing, they are what is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tensloradist.files import write_once
from tensloradist.results.layout import sweep_folder


@dataclass(frozen=True)
class Submitted:
    """A launch that Slurm has accepted (`slurm.json`), or one array of it (`accepted-N.json`).

    `cluster`: where its job ids mean something; None: it was not known, or not recorded yet.
    """

    profile: str
    user: str
    host: str
    submitted: float
    commit: str | None
    sources: str
    arrays: list[dict[str, Any]] = field(default_factory=list)
    snapshot: str | None = None
    schema_version: int = 1
    cluster: str | None = None

    @property
    def job_ids(self) -> list[str]:
        return [array["job_id"] for array in self.arrays]

    def with_array(self, folder: Path, array: dict[str, Any]) -> Submitted:
        """The same with one array more, which is on record now."""
        number = len(self.arrays)
        write_once(folder / f"accepted-{number}.json", _text(replace(self, arrays=[array])))
        return replace(self, arrays=[*self.arrays, array])

    def write(self, folder: Path) -> None:
        """The summary."""
        write_once(folder / "slurm.json", _text(self))


def _text(submitted: Submitted) -> str:
    return json.dumps(asdict(submitted), indent=1) + "\n"


def launches(name: str, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, what Slurm accepted) of each launch of a sweep with jobs, oldest first; also where it was cut short."""
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*")):
        summary = folder / "slurm.json"
        paths = [summary] if summary.exists() else sorted(folder.glob("accepted-*.json"), key=_number)
        said = [json.loads(path.read_text()) for path in paths]
        if said:
            yield folder, {**said[0], "arrays": [array for part in said for array in part["arrays"]]}


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("accepted-"))


def of_cluster(said: dict[str, Any], cluster: str | None) -> bool:
    """Whether a cluster can be asked about a launch's jobs: it is theirs, or theirs is not on record."""
    return said.get("cluster") in (None, cluster)


def elements(name: str, root: Path, cluster: str | None) -> Iterator[tuple[Path, str]]:
    """(launch folder, key) of each job or array element of this cluster that was submitted."""
    for folder, said in launches(name, root):
        for array in said["arrays"] if of_cluster(said, cluster) else ():
            tasks = int(array["tasks"])
            keys = [array["job_id"]] if tasks == 1 else [f"{array['job_id']}_{task}" for task in range(tasks)]
            yield from ((folder, key) for key in keys)


def jobs_elsewhere(name: str, root: Path, cluster: str | None) -> dict[str, list[str]]:
    """Other clusters' names -> the ids of the sweep's jobs there, of which this one knows nothing."""
    found: dict[str, list[str]] = {}
    for _, said in launches(name, root):
        if not of_cluster(said, cluster):
            found.setdefault(said["cluster"], []).extend(array["job_id"] for array in said["arrays"])
    return found
