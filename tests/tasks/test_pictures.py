"""What becomes of a picture in each of Pillow's modes, and of broken files."""

import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageSequence

from tensloradist.errors import UserError
from tensloradist.spec import TaskSpec
from tensloradist.tasks import load, pictures, task_named
from tensloradist.tasks.examples import image_backbone, image_hub_folder
from tensloradist.tasks.image_folders import read_folder
from tensloradist.tasks.named_images import HUB_IMAGES
from tensloradist.tasks.pictures import UnsupportedPicture, file_reading_changes, rgb, to_rgb

COLOUR, GREY = (200, 100, 50), (90, 90, 90)
SIZE = (6, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


def solid(mode, value):
    return Image.new(mode, SIZE, value)


def palette(mode="RGB", alpha=()):
    image = solid("P", 1)
    image.putpalette([0, 0, 0, *alpha, *COLOUR, *alpha], mode)
    return image


def with_transparency():
    image = palette()
    image.info["transparency"] = 1
    return image


def palette_with_alpha():
    return palette().convert("PA")


def lab():
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.profileToProfile(solid("RGB", COLOUR), *profiles, outputMode="LAB")


MODES = {
    "1": (lambda: solid("1", 1), (255, 255, 255), 0),
    "L": (lambda: solid("L", 90), GREY, 0),
    "LA": (lambda: solid("LA", (90, 255)), GREY, 0),
    "La": (lambda: solid("LA", (90, 255)).convert("La"), GREY, 0),
    "P": (palette, COLOUR, 0),
    "P, RGBA palette": (lambda: palette("RGBA", (255,)), COLOUR, 0),
    "PA": (palette_with_alpha, COLOUR, 0),
    "RGB": (lambda: solid("RGB", COLOUR), COLOUR, 0),
    "RGBA": (lambda: solid("RGBA", (*COLOUR, 255)), COLOUR, 0),
    "RGBa": (lambda: solid("RGBA", (*COLOUR, 255)).convert("RGBa"), COLOUR, 0),
    "RGBX": (lambda: solid("RGB", COLOUR).convert("RGBX"), COLOUR, 0),
    "CMYK": (lambda: solid("CMYK", (55, 155, 205, 0)), COLOUR, 0),
    "YCbCr": (lambda: solid("RGB", COLOUR).convert("YCbCr"), COLOUR, 2),
    "HSV": (lambda: solid("RGB", COLOUR).convert("HSV"), COLOUR, 3),
    "LAB": (lab, COLOUR, 3),
    "I;16": (lambda: solid("I;16", 90 * 256 + 200), GREY, 0),
    "I;16L": (lambda: solid("I;16L", 90 * 256 + 200), GREY, 0),
    "I;16B": (lambda: solid("I;16B", 90 * 256 + 200), GREY, 0),
    "I;16N": (lambda: solid("I;16N", 90 * 256 + 200), GREY, 0),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_rgb_that_it_means(mode):
    make, expected, tolerance = MODES[mode]
    image = make()
    assert image.mode == mode.split(",")[0]
    for on_white in (False, True):
        found = np.asarray(to_rgb(image, on_white=on_white)).astype(int)
        assert found.shape == (4, 6, 3) and abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_stated_range_are_refused(mode):
    with pytest.raises(UnsupportedPicture, match=rf"mode {mode}, .*without a stated range"):
        to_rgb(Image.new(mode, SIZE, 5))


def test_pillow_has_no_other_modes():
    """A mode that a later Pillow adds must be put into the table."""
    from PIL import ImageMode

    known = {mode.split(",")[0] for mode in MODES} | {"I", "F"}
    listed = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"}
    deep = {mode for mode in ("I;16", "I;16L", "I;16B", "I;16N") if ImageMode.getmode(mode).mode == mode}
    assert set(Image.MODES) <= listed | deep == known


@pytest.mark.parametrize(
    "make",
    [lambda: solid("RGBA", (*COLOUR, 51)), lambda: solid("RGBA", (*COLOUR, 51)).convert("RGBa"), with_transparency],
)
def test_alpha_is_dropped_or_laid_on_white(make):
    from transformers.image_transforms import convert_to_rgb

    image = make()
    assert abs(np.asarray(to_rgb(image)).astype(int) - COLOUR).max() <= 3
    laid = np.asarray(to_rgb(image, on_white=True))
    assert laid.min() > 200
    plain = image.convert("RGBA") if image.mode == "RGBa" else image
    assert np.array_equal(laid, convert_to_rgb(plain, return_numpy=True)), "as transformers lays it"


def tiff(path, values, bits, photometric=1, order="<"):
    """A TIFF of one row, written by hand: Pillow writes neither 12 bits nor 16 with 0 for white."""
    if bits == 12:
        packed = b"".join(
            bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(*[iter(values)] * 2, strict=True)
        )
    else:
        packed = struct.pack(f"{order}{len(values)}H", *values)
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(packed))
    path.write_bytes(head + packed + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0")


def deep_files(folder):
    """Files of grey of more than 8 bits whose first pixels are 32 and 192 of 255."""
    values = np.array([[8192, 49152]], np.uint16)
    Image.fromarray(values).save(folder / "16.png")
    Image.fromarray(values).save(folder / "16.tif")
    tiff(folder / "16_big_endian.tif", [8192, 49152], 16, order=">")
    tiff(folder / "16_white_is_0.tif", [65535 - 8192, 65535 - 49152], 16, photometric=0)
    tiff(folder / "12.tif", [8192 >> 4, 49152 >> 4], 12)
    (folder / "16_pgm.ppm").write_bytes(b"P5 2 1 65535\n" + values.astype(">u2").tobytes())
    (folder / "10_pgm.ppm").write_bytes(b"P5 2 1 1023\n" + np.array([129, 769], ">u2").tobytes())
    return sorted(folder.iterdir())


def test_deep_grey_files_have_their_upper_bits(tmp_path):
    files = deep_files(tmp_path)
    found = {path.name: np.asarray(rgb(str(path)))[0, :, 0].tolist() for path in files}
    assert found == {path.name: [32, 192] for path in files}
    assert all(file_reading_changes(str(path)) == ("grey16",) for path in files)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_ordinary_files_are_read_as_they_were(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.gif", "a.webp", "a.bmp", "a.ppm"):
        solid("RGB", COLOUR).save(tmp_path / name)
    solid("L", 9).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "b.tif", compression="tiff_lzw")
    (tmp_path / "broken.tif").write_bytes(b"II*\0and no more")
    assert not [path.name for path in tmp_path.iterdir() if file_reading_changes(str(path))]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "deep.png", "deep.tif"])
def test_orientation_is_applied(tmp_path, name):
    dark_left = np.full((8, 16), 60000, np.uint16)
    dark_left[:, :8] = 600
    image = Image.fromarray(dark_left if "deep" in name else (dark_left >> 8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what was left is on top
    image.save(tmp_path / name, exif=exif)
    found = np.asarray(rgb(str(tmp_path / name)))
    assert found.shape == (16, 8, 3) and found[:7].max() < 20 and found[9:].min() > 210
    # Pillow mixes up the rows of such a file where it maps it into memory, as it did for earlier versions.
    assert ("turned" in file_reading_changes(str(tmp_path / name))) == name.endswith("tif")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_the_first_frame_counts(tmp_path, name):
    frames = [solid("RGB", (250, 0, 0)), solid("RGB", (0, 250, 0))]
    frames[0].save(
        tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
    )
    with Image.open(tmp_path / name) as image:
        assert len(list(ImageSequence.Iterator(image))) == 2
    assert np.asarray(rgb(str(tmp_path / name)))[0, 0].tolist() == [250, 0, 0]


def folder_of(tmp_path, save):
    """Two classes of five pictures, dark and light, written by save(path without suffix, 16-bit value)."""
    for label, value in (("dark", 8192), ("light", 49152)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(5):
            save(tmp_path / "data" / label / str(index), value + index)
    return TaskSpec(name="images", data=str(tmp_path / "data"))


def grey_of(part):
    """The grey levels of the backbone's pixels, by the example's class."""
    pixels = part.batch(range(len(part)), None)["pixel_values"] * 0.5 + 0.5
    return {name.split("/")[0]: round(float(value.mean()) * 255) for name, value in zip(part.ids, pixels, strict=True)}


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_folder_of_deep_pictures_is_read_rightly_and_is_new_data(tmp_path, ending):
    task = folder_of(
        tmp_path, lambda path, value: Image.fromarray(np.full((16, 16), value, np.uint16)).save(f"{path}.{ending}")
    )
    loaded = load(task, image_backbone(tmp_path))
    assert grey_of(loaded.train) == {"dark": 32, "light": 192}
    assert loaded.data_fingerprint.endswith("+grey16")
    earlier = task.model_copy(update={"fingerprint": loaded.data_fingerprint.removesuffix("+grey16")})
    with pytest.raises(UserError, match=r"is read differently than by the version that planned the run \(grey16\)"):
        load(earlier, image_backbone(tmp_path))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_a_picture_without_a_range_is_refused_by_its_file(tmp_path, kind):
    task = folder_of(tmp_path, lambda path, value: Image.fromarray(np.full((16, 16), value, kind)).save(f"{path}.tif"))
    with pytest.raises(UserError, match=r"the image dark/0\.tif is not supported: mode [IF], .*save it with 8 or 16"):
        load(task, image_backbone(tmp_path))
    assert task_named("images").fingerprint(task).endswith("+grey16"), "what was trained on white is not finished"


def test_deep_pictures_in_parquet_are_read_rightly(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tensloradist.tasks.examples._image",
        lambda seed: Image.fromarray(np.full((16, 16), 49152 + seed, np.uint16)),
    )
    task, backbone = image_hub_folder(tmp_path, HUB_IMAGES["dtd"]), image_backbone(tmp_path)
    loaded = load(task, backbone)
    assert loaded.data_fingerprint.endswith("+grey16")
    pixels = loaded.test.batch(range(3), None)["pixel_values"] * 0.5 + 0.5
    assert abs(pixels * 255 - 195).max() < 4  # (49152 + 1000 and more) >> 8
    # Of the Hub nothing but the commit is known when a run is planned: there they are refused.
    monkeypatch.setattr("tensloradist.tasks.image_pixels.is_read_deep", lambda fingerprint: False)
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "another"))
    with pytest.raises(UserError, match="grey of more than 8 bits, which this data is not known to hold"):
        load(task, backbone)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "tif", "webp", "bmp", "ppm"])
def test_a_truncated_file_is_named(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as a plugin may do
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    path = tmp_path / f"a.{ending}"
    noise.save(path)
    whole = path.read_bytes()
    task = folder_of(tmp_path, lambda path, value: Path(f"{path}.{ending}").write_bytes(whole))
    (tmp_path / "data" / "light" / f"3.{ending}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"the image light/3\.{ending} cannot be read"):
        load(task, image_backbone(tmp_path))


def test_a_picture_may_have_another_format_than_its_suffix(tmp_path):
    task = folder_of(
        tmp_path,
        lambda path, value: Image.fromarray(np.full((16, 16), value, np.uint16)).save(f"{path}.jpg", format="PNG"),
    )
    assert read_folder(Path(task.data)).fingerprint.endswith("+grey16")


def test_truncated_files_are_errors_while_any_thread_decodes(monkeypatch):
    """Whatever other code in the process has set, which holds again once the last one is done."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first, second = (ExitStack() for _ in range(2))
    for thread in (first, second):
        thread.enter_context(pictures._whole)
    first.close()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "the second one is still at it"
    second.close()
    assert ImageFile.LOAD_TRUNCATED_IMAGES
