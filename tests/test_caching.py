"""The content-addressed cache: entries are whole or absent, whoever makes them and however that ends."""

import subprocess
import sys

import pytest

from tensloradist.caching import cached_folder, cached_json, entry_path

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


def test_a_value_is_made_once_and_again_where_its_file_is_damaged(tmp_path):
    made = iter((1, 2, 3))
    assert [cached_json("test", "key", lambda: next(made)) for _ in range(2)] == [1, 1]
    (tmp_path / "test" / "key.json").write_text("")
    assert [cached_json("test", "key", lambda: next(made)) for _ in range(2)] == [2, 2]


def test_a_value_is_made_each_time_where_no_cache_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "file"))
    made = iter((1, 2))
    assert [cached_json("test", "key", lambda: next(made)) for _ in range(2)] == [1, 2]


def test_a_plan_that_was_made_before_imports_no_torch(tmp_path):
    """What models say is remembered, so that planning again takes a second and not ten."""
    script = "import sys; from launch.plan import check; from launch.sweep import load_sweep\n"
    script += "from pathlib import Path; check(load_sweep('demo'), Path('none')); print('torch' in sys.modules)"
    for imported in ("True", "False"):
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == imported
