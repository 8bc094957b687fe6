"""Which pictures of a folder count, in which class and part; what is refused, and what the notes tell."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets.data_files import SPLIT_KEYWORDS
from PIL import Image

from tensloradist.errors import UserError
from tensloradist.spec import TaskSpec
from tensloradist.tasks import load, task_named
from tensloradist.tasks.base import describe_parts
from tensloradist.tasks.examples import image_backbone
from tensloradist.tasks.image_folders import PART_WORDS, part_of, read_folder
from tensloradist.tasks.images import fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Make files below a folder: what stands in them is their name, unless a content is given."""
    root = tmp_path / "data"

    def made(*names, **contents):
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents.get("content", name.encode(errors="surrogateescape")))
        return root

    root.mkdir()
    return made


def pictures(*folders, each=5):
    return [f"{folder}/{index}.png" for folder in folders for index in range(each)]


def counted(root):
    """How many pictures are in each part and class."""
    found = read_folder(root)
    parts = found.parts or [""] * len(found.ids)
    keys = [f"{part}/{name}".lstrip("/") for part, name in zip(parts, found.names, strict=True)]
    return {key: keys.count(key) for key in sorted(set(keys))}


def test_the_words_for_parts_are_those_of_datasets():
    assert {part: set(words) for part, words in PART_WORDS.items()} == {
        str(part): set(words) for part, words in SPLIT_KEYWORDS.items()
    }
    assert part_of("Validation") == "validation" and part_of("testimony") is None


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("Training", "dev", "evaluation"), ("TRAIN", "valid", "eval")]
)
def test_folders_of_those_words_are_the_parts(folder, words):
    root = folder(*pictures(*(f"{word}/{name}" for word in words for name in "ab"), each=2))
    assert counted(root) == {f"{part}/{name}": 2 for part in ("test", "train", "validation") for name in "ab"}
    assert read_folder(root).sources == dict(zip(PART_WORDS, words, strict=True))


@pytest.mark.parametrize("names", [(), ("a.png", "b.png"), ("cats/notes.txt",)], ids=["empty", "flat", "no pictures"])
def test_a_folder_without_images_in_classes_says_what_to_do(folder, names):
    with pytest.raises(UserError, match=r"task\.data: .*put the images of each class into a sub-folder \(\.jpg"):
        fingerprint(TaskSpec(name="images", data=str(folder(*names))))


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("bus", "car", "train/steam", "train/diesel"), "train may be the training part or a class.*: bus, car;"),
        (("bus/red", "bus/blue", "train/steam", "train/diesel"), "train may be the training part or a class"),
        (("train", "test"), "folders test, train may be parts or classes"),
        (("train", "test", "bus"), "folders test, train may be parts or classes"),
        (("val/a", "val/b", "test/a", "test/b"), "folders test, val may be parts or classes"),
        (("train/a", "train/b", "val/a", "valid/a"), "val and valid both mean the validation part"),
        (("train/a", "train/b", "Train/a"), "Train and train both mean the train part"),
        (("train/a", "train/b", "eval/a", "test/a"), "eval and test both mean the test part"),
    ],
)
def test_a_folder_that_may_mean_two_things_is_refused_when_it_is_planned(folder, folders, says):
    root = folder(*pictures(*folders))
    with pytest.raises(UserError, match=says):
        fingerprint(TaskSpec(name="images", data=str(root)))


def test_a_class_may_be_called_as_a_part(folder):
    root = folder(*pictures("bus", "car/old/rusty", "train"), "car/new/1.png")
    assert counted(root) == {"bus": 5, "car": 6, "train": 5}


def test_a_class_may_be_called_valid(folder):
    assert counted(folder(*pictures("valid", "invalid"))) == {"invalid": 5, "valid": 5}


SYSTEM = (
    *("a/@eaDir/0.png/SYNO_THUMB.jpg", "@eaDir/x.png", "__MACOSX/a/0.png", "__MACOSX/b/0.png", "a/._0.png"),
    *(".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", ".hidden/1.png", ".DS_Store"),
    *("Thumbs.db", "a/Thumbs.db", "b/desktop.ini", "#recycle/a/9.png", "$RECYCLE.BIN/a/9.png", "lost+found/1.png"),
)


def test_what_systems_put_into_folders_is_no_class_and_no_picture(folder):
    clean = read_folder(folder(*pictures("a", "b")))
    found = read_folder(folder(*SYSTEM))
    assert (found.ids, found.notes, found.fingerprint) == (clean.ids, (), clean.fingerprint)


def test_what_is_not_used_is_said(folder):
    root = folder(*pictures("train/a", "train/b", "test/a", each=3), *pictures("train/c", each=1), "train/loose.png")
    folder("extra/1.png", "extra/sub/2.png", "val/loose.png", "stray.png", "train/a/note.txt", "a.zip", "train/b/noend")
    (root / "train" / "empty").mkdir()
    notes = "; ".join(read_folder(root).notes)
    for note in (
        "not used: extra/ (2 pictures)",
        "not used: train/ (1 picture outside class folders)",
        "not used: val/ (1 picture outside class folders)",
        "not used: 1 picture beside the folders",
        "not used: 3 files without a picture's suffix",
        "1 .zip",
        "1 no suffix",
        "no pictures in train/empty",
        "no test pictures of b, c",
    ):
        assert note in notes
    assert counted(root) == {"test/a": 3, "train/a": 3, "train/b": 3, "train/c": 1}


def test_a_folder_that_cannot_be_listed_is_no_empty_one(folder, monkeypatch):
    root = folder(*pictures("a", "b", "c"))
    scandir = os.scandir

    def forbidden(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match="data/b: cannot be read"):
        read_folder(root)


def links(root, kind):
    if kind == "loop":
        (root / "a" / "all").symlink_to(root)
        (root / "a" / "deep").mkdir()
        (root / "a" / "deep" / "up").symlink_to("..")
    elif kind == "symbolic link":
        (root / "a" / "again.png").symlink_to("0.png")
    elif kind == "hard link":
        os.link(root / "a" / "0.png", root / "a" / "again.png")
    else:
        (root / "a" / "same").symlink_to(root / "a" / "more")


@pytest.mark.parametrize("kind", ["loop", "symbolic link", "hard link", "linked folder"])
def test_a_picture_counts_once_whatever_links_do(folder, kind):
    root = folder(*pictures("a", "b", "a/more"))
    before = read_folder(root)
    links(root, kind)
    after = read_folder(root)
    assert (after.ids, after.fingerprint) == (before.ids, before.fingerprint)
    again = {"loop": 0, "linked folder": 5}.get(kind, 1)
    assert len(after.notes) == bool(again)
    assert not again or after.notes[0].startswith(f"not counted again: {again} link")


@pytest.mark.parametrize("make", [os.link, lambda target, link: Path(link).symlink_to(target)])
def test_one_file_is_never_in_two_classes_or_parts(folder, make):
    root = folder(*pictures("train/a", "train/b", "test/a", "test/b"))
    make(root / "train/a/0.png", root / "train/b/x.png")
    with pytest.raises(UserError, match=r"train/a/0\.png and train/b/x\.png are one file \(a link\) in two classes"):
        read_folder(root)
    (root / "train/b/x.png").unlink()
    make(root / "train/a/0.png", root / "test/a/x.png")
    with pytest.raises(UserError, match=r"are one file \(a link\) in two parts"):
        read_folder(root)


def test_a_class_folder_may_be_a_link(folder, tmp_path):
    root = folder(*pictures("a", "b"))
    (root / "b").rename(tmp_path / "elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert counted(root) == {"a": 5, "b": 5}
    (root / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"b/0\.png and c/0\.png are one file"):
        read_folder(root)


def test_a_link_to_nothing_is_named(folder):
    root = folder(*pictures("a", "b"))
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"a/gone\.png: cannot be read"):
        read_folder(root)


def test_copies_are_counted_and_said(folder):
    root = folder(*pictures("train/a", "train/b", "test/a", "test/b"))
    folder("train/a/copy.png", "test/a/copy1.png", "test/b/copy2.png", content=b"the same")
    assert read_folder(root).notes == ("2 pictures repeat training pictures in the test part",)
    folder_of_classes = read_folder(root / "train")
    assert folder_of_classes.notes == ()
    folder("train/b/copy.png", content=b"the same")
    assert read_folder(root / "train").notes == ("1 picture repeats the content of others, perhaps in another part",)


# As the code before reading was changed gave them: runs on such folders keep their ids.
PINNED = {
    "classes": (pictures("a", "b", "c/deeper"), "1c0cd15ddff21dc2930c00a0f5df752d"),
    "parts": (pictures("train/a", "train/b", "val/a", "test/b"), "f7832eaf3c5e2b9a9a98e47f5edf8c09"),
    "with what does not count": (
        [*pictures("a", "b"), "stray.png", "a/notes.txt", ".hidden/1.png"],
        "521b5108cc93823b82782c32fcd1f02d",
    ),
    "with pictures that are not used": (
        [*pictures("train/a", "train/b", "test/a"), "extra/1.png"],
        "e790d324550b763e6952de910ed10c7e",
    ),
}


@pytest.mark.parametrize("kind", PINNED)
def test_fingerprints_of_plain_folders_are_pinned(folder, kind):
    names, expected = PINNED[kind]
    assert fingerprint(TaskSpec(name="images", data=str(folder(*names)))) == expected


def test_fingerprints_of_real_folders_are_pinned(data_root):
    from tensloradist import backbones
    from tensloradist.spec import BackboneSpec

    found = {
        name: fingerprint(TaskSpec(name="images", data=str(data_root / "data" / name))) for name in ("dtd10", "rsscn7")
    }
    assert found == {"dtd10": "bdab5d1b0e762b85ac6fa25ca186b245", "rsscn7": "250e0bfc51cbb70938194d0b80cd378f"}
    backbone = BackboneSpec(name=str(data_root / "models" / "deit_tiny"))
    assert backbones.fingerprint(backbone) == "552375bbaa06b0a0bf5cce9ba9fdd928"


def test_a_plan_reads_folders_and_configurations_without_torch(folder, tmp_path):
    root = folder(*pictures("a", "b"))
    Image.new("I;16", (4, 4), 9).save(root / "a" / "deep.tif")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"do_rescale": false}')
    code = f"""
import sys
from tensloradist import backbones
from tensloradist.spec import BackboneSpec, TaskSpec
from tensloradist.tasks import task_named
task = TaskSpec(name="images", data={str(root)!r})
print(task_named("images").parts(task, "sound"), task_named("images").fingerprint(task)[32:])
print(backbones.fingerprint(BackboneSpec(name={str(tmp_path / "model")!r}, random_init=True))[32:])
print({{"torch", "transformers", "datasets"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = "images: 7 training, 2 validation, 2 test examples (60/20/20 % of data/)"
    assert done.stdout.splitlines() == [f"{line} +grey16", "+preprocessing", "set()"]


def test_a_plan_has_a_line_for_each_folder_and_protocol(folder):
    from launch.planning.plan import parts

    tasks = [TaskSpec(name="images", data=str(folder(*pictures("a", "b")))), TaskSpec(name="digits")]
    runs = [
        SimpleNamespace(spec=SimpleNamespace(task=task, protocol=protocol))
        for task in tasks
        for protocol in ("sound", "sound", "official")
    ]
    assert parts(SimpleNamespace(runs=runs)) == [
        "images: 6 training, 2 validation, 2 test examples (60/20/20 % of data/)",
        "images: 8 training, 2 test examples, also for validation (80/20 % of data/)",
    ]


def test_folders_that_were_passed_over_make_new_data(folder):
    assert read_folder(folder(*pictures("train/a", "train/b", "dev/a"))).fingerprint.endswith("+parts")


NAMES = ("caf\udce9", "line\nbreak", "[bold]x[\\]y|z", "long" * 60)


def test_names_of_any_bytes_load_and_are_shown_safely(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (16, 16), (50 * number, index, 0)).save(tmp_path / "data" / name / f"{index}\udcff.png")
    (tmp_path / "data" / "empty\udce9").mkdir()
    task = TaskSpec(name="images", data=str(tmp_path / "data"))
    loaded = load(task, image_backbone(tmp_path))
    assert loaded.classes == tuple(sorted(NAMES)) and len(loaded.split_fingerprint) == 32
    for line in (describe_parts(loaded), task_named("images").parts(task, "sound")):
        assert line.endswith(r"4 test examples (60/20/20 % of data/; no pictures in 'empty\udce9')")
        assert line.encode() and line.isprintable()


def test_a_missing_class_of_any_name_is_named_safely(folder):
    root = folder(*pictures("train/a", "train/b", "test/caf\udce9"))
    with pytest.raises(UserError, match="no training images of the classes") as caught:
        task_named("images").num_labels(TaskSpec(name="images", data=str(root)))
    assert r"'caf\udce9'" in str(caught.value) and str(caught.value).encode()


LINES = [
    (("a", "b"), "sound", (12, 4, 4), "60/20/20 % of data/"),
    (("a", "b"), "official", (16, 4), "80/20 % of data/"),
    (
        ("train/a", "train/b"),
        "sound",
        (12, 4, 4),
        "train: 64 % of train/, validation: 16 % of train/, test: 20 % of train/",
    ),
    (
        ("train/a", "train/b", "val/a", "val/b"),
        "sound",
        (16, 20, 4),
        "train: 80 % of train/, validation: val/, test: 20 % of train/",
    ),
    (
        ("train/a", "train/b", "test/a", "test/b"),
        "sound",
        (16, 4, 20),
        "train: 80 % of train/, validation: 20 % of train/, test: test/",
    ),
    (
        ("train/a", "train/b", "val/a", "test/b"),
        "official",
        (30, 10),
        "train: train/ and val/, test: test/; no validation pictures of b; no test pictures of a",
    ),
]


@pytest.mark.parametrize(("folders", "protocol", "sizes", "origin"), LINES)
def test_the_line_on_the_parts_is_the_same_before_and_after_loading(tmp_path, folders, protocol, sizes, origin):
    for number, name in enumerate(folders):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (16, 16), (9 * number, index, 0)).save(tmp_path / "data" / name / f"{index}.png")
    task = TaskSpec(name="images", data=str(tmp_path / "data"))
    held = "{} validation, {} test examples" if protocol == "sound" else "{} test examples, also for validation"
    line = f"images: {sizes[0]} training, {held.format(*sizes[1:])} ({origin})"
    assert task_named("images").parts(task, protocol) == line
    assert describe_parts(load(task, image_backbone(tmp_path), protocol)) == line
