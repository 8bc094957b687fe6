"""What earlier versions wrote, kept as archives beside the tests, and the commands as they are called on it."""

import tarfile
from pathlib import Path

from typer.testing import CliRunner

from tensloradist.cli import _application


def call(*words, code=0):
    """What a command prints; it has to end with this exit code."""
    done = CliRunner().invoke(_application(), [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done.output


def unpacked(archive, folder, was=None):
    """The folder that an archive holds, unpacked into another.

    Args:
        was: the absolute path that the folder had when it was written; its files name the new one instead. In pickles,
            which hold the lengths of texts, the new path is filled up with slashes.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    target = folder / Path(archive).name.partition(".")[0]
    if was is not None:
        old, new = was.encode(), str(target).encode()
        assert len(new) <= len(old), f"{target}: longer than the {len(old)} characters that pickles have for it"
        for path in target.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.suffix != ".safetensors":
                content = path.read_bytes()
                path.write_bytes(content.replace(old, new.ljust(len(old), b"/") if path.suffix == ".pkl" else new))
    return target
