"""The identity of the running code: the checkout's commit, and hashes of source files. Hashing imports nothing.

A job runs this package, `launch` and the plugins of its runs; their files are located by name, as an import does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, PathFinder
from importlib.util import find_spec
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.records import read_object

PACKAGES = ("tensloradist", "launch", "analysis", "sweeps", "slurm")  # this project's
OF_A_JOB = ("tensloradist", "launch")
_PARTS = ".modules.json"  # in a copy: module -> names of its files and folders
NOT_FOUND = "not found"  # instead of a hash, for a module that cannot be imported here
_PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """A hash of this package's source files, which shows whether code was edited, in a checkout or not."""
    return _hash({path.relative_to(_PACKAGE).as_posix(): path for path in _PACKAGE.rglob("*.py")})


def job_hashes(plugins: Iterable[str]) -> dict[str, str]:
    """module -> hash of its current code, for every module of a job that trains runs with these plugins."""
    return {name: module_hash(name) for name in (*OF_A_JOB, *sorted(plugins))}


def job_hash(plugins: Iterable[str]) -> str:
    """One hash over `job_hashes`; if it changes, a job would no longer run the same code."""
    return hashlib.sha256(json.dumps(job_hashes(plugins)).encode()).hexdigest()[:16]


def module_hash(name: str) -> str:
    """A hash of `module_code`'s source files; 'not found' if there are none."""
    files: dict[str, Path] = {}
    for relative, path in module_code(name).items():
        found = [file for file in path.rglob("*") if file.name.endswith(_SUFFIXES)] if path.is_dir() else [path]
        files |= {f"{relative}/{file.relative_to(path).as_posix()}": file for file in found if file.is_file()}
    return _hash(files) if files else NOT_FOUND


def module_code(name: str) -> dict[str, Path]:
    """Relative name -> the files and folders to copy so that a module can be imported.

    These are the whole package that contains it, and the modules and packages beside it that its code imports, except
    installed ones, which have a version.
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
            break  # not a namespace package, which has no code itself and may contain unrelated code
    assert spec is not None
    depth = path.count(".")
    places = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or ""]]
    code = {"/".join(place.parts[-depth - 1 :]): place for place in places if place.exists()}
    for folder in (place.parents[depth] for place in places):
        if (copied := _copied(folder, name)) is not None:
            return copied
        if name not in PACKAGES and not _is_installed(folder):
            _add_imports(code, folder)
    return code


def copy_code(modules: Iterable[str], folder: Path) -> None:
    """Copy the code of these modules into a new folder, with a record of each module's files.

    Without the record, a module would seem to include everything that it imports and that was copied from elsewhere.

    Raises:
        UserError: a module is not found here.
    """
    parts: dict[str, list[str]] = {}
    for module in modules:
        found = module_code(module)
        if not found:
            raise UserError(f"--snapshot: the module {module} is not found here")
        parts[module] = sorted(found)
        for name, source in found.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
    (folder / _PARTS).write_text(json.dumps(parts, indent=1) + "\n")


def _copied(folder: Path, name: str) -> dict[str, Path] | None:
    """A module's code in a folder made by `copy_code`; None in other folders, or if the module is missing."""
    parts = read_object(folder / _PARTS, "the record of a copy's modules")
    if parts is None or name not in parts:
        return None
    return {relative: folder / relative for relative in parts[name] if (folder / relative).exists()}


def search_here() -> None:
    """Search plugins in the working directory, too: first, as for a script, but last in Python's safe-path mode.

    Jobs of a snapshot use that mode, so that their copies precede the originals.
    """
    if "" not in sys.path:
        sys.path.insert(len(sys.path) if sys.flags.safe_path else 0, "")
    importlib.invalidate_caches()  # finds files written since the last search


def _is_installed(folder: Path) -> bool:
    places = {Path(place).resolve() for place in sysconfig.get_paths().values()}
    return folder in places or bool({"site-packages", "dist-packages"} & set(folder.parts))


def _add_imports(code: dict[str, Path], folder: Path) -> None:
    """Add to the code what it imports from its folder, recursively."""
    waiting = [path for path in code.values() if path.is_relative_to(folder)]
    while waiting:
        path = waiting.pop()
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            for name in _imported(file, file.relative_to(folder).parent.parts):
                found = _module_in(folder, name)
                if found is not None and (relative := found.relative_to(folder).as_posix()) not in code:
                    code[relative] = found
                    waiting.append(found)


def _module_in(folder: Path, name: str) -> Path | None:
    """The module or package that an import of this name runs, if it is in this folder.

    In a namespace package, this is the first part with its own code, since a folder of data looks like a package, too.
    """
    first, places = name.split(".")[0], [str(folder)]
    if first in sys.stdlib_module_names or first in PACKAGES:
        return None
    for part in name.split("."):
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            return None
        if spec.origin is not None:
            return Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
        places = list(spec.submodule_search_locations or [])
    return None


def _imported(file: Path, package: tuple[str, ...]) -> Iterator[str]:
    """The names that a source file of a package may import; none if it cannot be parsed."""
    if file.suffix not in SOURCE_SUFFIXES:
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it fails, too, with its own message
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names if alias.name != "*")
            if base:
                yield ".".join(base)


def _hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The checkout's commit, with '+changes' if files differ from it; None outside a checkout."""
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
