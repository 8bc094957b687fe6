"""The content-addressed cache: entries are whole or absent, whoever makes them and however that ends."""

import subprocess
import sys

import pytest

from tensloradist.caching import cached_folder, entry_path

SCRIPT = """
import time
from tensloradist.caching import cached_folder

def make(folder):
    for index in range(50):
        (folder / f"{index}.txt").write_text(str(index))
        time.sleep(0.002)

folder = cached_folder("test", "key", make)
print(sum(int(path.read_text()) for path in folder.iterdir()))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path))


def test_processes_that_make_one_entry_at_once_all_see_it_whole(tmp_path):
    makers = [subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [maker.communicate(timeout=60)[0].strip() for maker in makers] == ["1225"] * 4
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["key"], "nothing temporary is left"


def test_an_entry_that_could_not_be_made_is_absent(tmp_path):
    def make(folder):
        (folder / "half").write_text("of it")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        cached_folder("test", "key", make)
    assert not entry_path("test", "key").exists() and not list((tmp_path / "test").iterdir())
