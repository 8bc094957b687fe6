"""Hashes of files, folders and tensors: content and relative names, nothing else."""

import os

import pytest
import torch

from tensloradist.errors import UserError
from tensloradist.fingerprint import checksum, hash_bytes, hash_path, hash_tensors


def test_a_folders_hash_is_of_names_and_contents_wherever_it_lies(tmp_path):
    for place in ("a", "elsewhere/b"):
        folder = tmp_path / place / "data"
        (folder / "x").mkdir(parents=True)
        (folder / "x" / "1.txt").write_text("one")
        (folder / "2.txt").write_text("two")
    (tmp_path / "a/data/.hidden").write_text("not counted")
    first, second = tmp_path / "a/data", tmp_path / "elsewhere/b/data"
    assert hash_path(first) == hash_path(second)
    (second / "2.txt").rename(second / "3.txt")
    assert hash_path(first) != hash_path(second)
    assert hash_path(first, lambda name: name.startswith("x/")) == hash_path(second, lambda name: name.startswith("x/"))


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    before = hash_path(path)
    assert hash_path(path) == before
    path.write_text("two")
    os.utime(path, ns=(1, 1))  # even if the clock had not moved between the writes
    assert hash_path(path) != before


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_hash_is_a_users_mistake_with_the_path(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        hash_path(tmp_path / name)


def test_parts_are_told_apart():
    assert hash_bytes("ab", "c") != hash_bytes("a", "bc")


def test_a_tensors_hash_is_of_its_bits_type_shape_and_name():
    values = torch.arange(6.0).reshape(2, 3)
    same = {"w": values.T.contiguous().T, "b": torch.tensor(1.0)}
    assert hash_tensors({"b": torch.tensor(1.0), "w": values}) == hash_tensors(same)
    others = [values.reshape(3, 2), values.double(), values.bfloat16(), values + 1, torch.nextafter(values, values + 1)]
    hashes = {hash_tensors({"w": other}) for other in [values, *others]} | {hash_tensors({"v": values})}
    assert len(hashes) == len(others) + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_checksum_sees_every_bit_type_and_shape_and_not_where_a_tensor_lies(dtype):
    values = torch.randint(0, 100, (3, 700)).to(dtype)
    assert checksum(values.T.contiguous().T) == checksum(values)
    part = torch.cat([torch.ones(1, dtype=dtype), values.flatten()])[1:].view(3, 700)  # begins between two words
    assert checksum(part) == checksum(values)
    found = {checksum(values), checksum(values.view(700, 3)), checksum(values.to(torch.float64))}
    for place in (0, 699, 1050, 2099):
        for bit in range(8):
            other = values.clone()
            other.view(-1)[place : place + 1].view(torch.uint8)[-1] ^= 1 << bit
            found.add(checksum(other))
    assert len(found) == 3 + 4 * 8


def test_a_checksum_of_few_values_or_none():
    few = [torch.tensor(1.5), torch.tensor(2.5), torch.zeros(0), torch.zeros(0, 2), torch.zeros(256), torch.zeros(512)]
    assert len({checksum(value) for value in few}) == len(few)
