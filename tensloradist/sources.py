"""Which code this is: the checkout's commit, and hashes of source files. Nothing is imported to find them.

A job runs this package, `launch` and the plugins that its runs name; they are found by name, as an import would.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, PathFinder
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("tensloradist", "launch", "analysis", "sweeps", "slurm")  # of this project
OF_A_JOB = ("tensloradist", "launch")
NOT_FOUND = "not found"  # in place of the hash of a module that cannot be imported here
_PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """A hash of this package's source files: tells whether code was edited, in a checkout or not."""
    return _hash({path.relative_to(_PACKAGE).as_posix(): path for path in _PACKAGE.rglob("*.py")})


def job_hashes(plugins: Iterable[str]) -> dict[str, str]:
    """module -> hash of its code as it is now, of everything that a job runs which trains runs with these plugins."""
    return {name: module_hash(name) for name in (*OF_A_JOB, *sorted(plugins))}


def job_hash(plugins: Iterable[str]) -> str:
    """One hash of all that: another one says that a job would not run the code that was there before."""
    return hashlib.sha256(json.dumps(job_hashes(plugins)).encode()).hexdigest()[:16]


def module_hash(name: str) -> str:
    """A hash of `module_code`'s source files; 'not found' where there are none."""
    files = {}
    for relative, path in module_code(name).items():
        found = [file for file in path.rglob("*") if file.name.endswith(_SUFFIXES)] if path.is_dir() else [path]
        files |= {f"{relative}/{file.relative_to(path).as_posix()}": file for file in found if file.is_file()}
    return _hash(files) if files else NOT_FOUND


def module_code(name: str) -> dict[str, Path]:
    """What to copy so that a module can be imported: files and folders, by their names in the folder searched.

    That is the whole package that contains it; and of modules and packages that lie beside it, those that this code
    imports, but for what is installed, which has a version.
    """
    search_here()
    spec, path = None, ""
    for part in name.split("."):
        path = f"{path}.{part}" if path else part
        try:
            spec = find_spec(path)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            return {}
        if spec.origin is not None or spec.submodule_search_locations is None:
            break  # no namespace package, which has no code of its own and may have much beside this
    assert spec is not None
    depth = path.count(".")
    places = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or ""]]
    code = {"/".join(place.parts[-depth - 1 :]): place for place in places if place.exists()}
    for folder in (place.parents[depth] for place in places):
        if name not in PACKAGES and not _is_installed(folder):
            _add_imports(code, folder)
    return code


def search_here() -> None:
    """Look for plugins in the working directory, too: first as for a script, but last where Python is told to be safe.

    The latter is so in jobs of a snapshot, whose copies must be found before what they were copied from.
    """
    if "" not in sys.path:
        sys.path.insert(len(sys.path) if sys.flags.safe_path else 0, "")
    importlib.invalidate_caches()  # what was written since the last look


def _is_installed(folder: Path) -> bool:
    places = {Path(place).resolve() for place in sysconfig.get_paths().values()}
    return folder in places or bool({"site-packages", "dist-packages"} & set(folder.parts))


def _add_imports(code: dict[str, Path], folder: Path) -> None:
    """Add to the code what it imports from the folder that it lies in, and what that imports."""
    waiting = list(code.values())
    while waiting:
        path = waiting.pop()
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            for name in _imported(file):
                found = PathFinder.find_spec(name, [str(folder)])
                if found is None or name in sys.stdlib_module_names or name in PACKAGES:
                    continue
                for place in found.submodule_search_locations or [found.origin]:
                    if place is not None and Path(place).name not in code:
                        code[Path(place).name] = Path(place)
                        waiting.append(Path(place))


def _imported(file: Path) -> Iterator[str]:
    """The first parts of the names that a source file imports; of one that cannot be parsed, none."""
    if file.suffix not in SOURCE_SUFFIXES:
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # it cannot be imported, either, and then says so by itself
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def _hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The checkout's commit, with '+changes' where files differ from it; None outside a checkout."""
    root = _PACKAGE.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "-c", f"safe.directory={root}"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "") if head.returncode == 0 else None
