"""Node-local copies: one a node whoever asks, whole, and of the content that was asked for."""

import os
import subprocess
import sys
from collections import namedtuple

import pytest
from synthetic import spec_of

from launch.worker.stage import stage
from launch.worker.staging import staged_spec
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_path
from tensloradist.tasks.image_folders import read_folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for number in range(60):
        (folder / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"class{number % 3}" / f"{number}.bin").write_bytes(bytes([number]) * 50_000)
    return folder


def test_workers_that_stage_at_once_share_one_copy(tmp_path, data):
    code = (
        "import sys; from pathlib import Path; from launch.worker.stage import stage; "
        "print(stage({'task.data': Path(sys.argv[1])}, Path(sys.argv[2]))['task.data'])"
    )
    command = [sys.executable, "-c", code, str(data), str(tmp_path / "node")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {worker.communicate(timeout=240)[0].strip() for worker in workers}
    (copy,) = said
    assert hash_path(copy) == hash_path(data) and len(list((tmp_path / "node").iterdir())) == 2, "a copy and its lock"


def test_an_edited_original_gets_a_copy_of_its_own(tmp_path, data):
    first = stage({"a": data}, tmp_path / "node")["a"]
    (data / "class0" / "0.bin").write_bytes(b"edited")
    second = stage({"a": data}, tmp_path / "node")["a"]
    assert first != second and (second / "class0" / "0.bin").read_bytes() == b"edited"


def test_the_copy_of_a_folder_with_links_is_the_same_data(tmp_path):
    data = tmp_path / "pictures"
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(name.encode())
    (data / "a" / "again.png").symlink_to("0.png")
    os.link(data / "b" / "0.png", data / "b" / "again.png")
    (data / "a" / "all").symlink_to(data)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").write_bytes(b"2")
    (data / "c").symlink_to(tmp_path / "elsewhere")
    copy = stage({"task.data": data}, tmp_path / "node")["task.data"]
    found, original = read_folder(copy), read_folder(data)
    assert (found.ids, found.fingerprint, found.notes) == (original.ids, original.fingerprint, original.notes)
    assert len(found.ids) == 5


def test_a_small_disk_is_said_before_anything_is_copied(tmp_path, data, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("launch.worker.stage.shutil.disk_usage", lambda path: usage(2**29, 0, 2**28 + 1000))
    with pytest.raises(UserError, match=r"needs 0\.0 GiB and 0\.3 are free on this node"):
        stage({"a": data}, tmp_path / "node")
    assert not [path for path in (tmp_path / "node").iterdir() if path.is_dir()]


def test_a_run_reads_the_copies(tmp_path, data, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    spec = spec_of(backbone={"name": "digits_vit"}, task={"name": "images", "data": str(data)})
    staged = staged_spec(spec, "$NODE_DISK/x")
    assert staged.task.data.startswith(str(tmp_path / "node/x")) and staged.backbone == spec.backbone
    assert spec.task.data == str(data) and staged_spec(spec, None) is spec and staged.run_id == spec.run_id
    with pytest.raises(UserError, match=r"stage: '\$NO_SUCH/x'"):
        staged_spec(spec, "$NO_SUCH/x")
