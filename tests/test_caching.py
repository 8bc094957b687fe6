"""The content-addressed cache: entries are whole or absent, whoever makes them and however that ends."""

import os
import subprocess
import sys
import tempfile

import pytest

from tensloradist.caching import cache_root, cached_folder, cached_json, entry_path, redirect_libraries
from tensloradist.errors import UserError

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
    assert [maker.communicate(timeout=240)[0].strip() for maker in makers] == ["1225"] * 4
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


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A home that nobody can write to, root neither; the folder for temporary files."""
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.delenv("TENSLORADIST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_without_a_writable_home_the_cache_is_the_users_own_below_tmpdir(no_home, caplog):
    folder = cached_folder("test", "key", lambda folder: (folder / "made").touch())
    (own,) = no_home.iterdir()
    assert folder == own / "test" / "key" and own.stat().st_mode & 0o777 == 0o700
    assert [record.message for record in caplog.records if "TENSLORADIST_CACHE" in record.message], "it is said"


@pytest.mark.parametrize("trap", ["a link", "open to others"])
def test_a_folder_that_another_user_may_have_prepared_is_refused(no_home, tmp_path, trap):
    own = no_home / f"tensloradist-{os.getuid()}"
    if trap == "a link":
        (tmp_path / "theirs").mkdir()
        own.symlink_to(tmp_path / "theirs")
    else:
        own.mkdir()
        own.chmod(0o777)
    with pytest.raises(UserError, match=r"not this user's alone; set TENSLORADIST_CACHE"):
        cached_folder("test", "key", lambda folder: None)


def test_a_given_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"TENSLORADIST_CACHE: the cache .*file cannot be written"):
        cached_folder("test", "key", lambda folder: None)


def test_other_libraries_caches_move_only_where_the_home_cannot_be_written(no_home, tmp_path, monkeypatch):
    names = ("HF_DATASETS_CACHE", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR")
    for name in (*names, "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MPLCONFIGDIR", "the user's")
    redirect_libraries()
    assert all(os.environ[name].startswith(str(cache_root())) for name in names)
    assert os.environ["MPLCONFIGDIR"] == "the user's" and "HF_HOME" not in os.environ
    for name in names:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    redirect_libraries()
    assert not any(name in os.environ for name in names)


def test_a_plan_that_was_made_before_imports_no_torch(tmp_path):
    """What models say is remembered, so that planning again takes a second and not ten."""
    script = "import sys; from launch.planning.plan import check; from launch.planning.sweep_file import load_sweep\n"
    script += "from pathlib import Path; check(load_sweep('demo'), Path('none')); print('torch' in sys.modules)"
    for imported in ("True", "False"):
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == imported
