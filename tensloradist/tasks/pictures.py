"""One picture as RGB with 8 bits a channel, whatever mode Pillow decodes it in. Only the first frame counts.

| Pillow's mode                  | what becomes of it                                                                  |
| ------------------------------ | ----------------------------------------------------------------------------------- |
| RGB, RGBX, L, 1, YCbCr, HSV    | Pillow's conversion to RGB                                                          |
| LAB                            | Pillow's conversion, through LittleCMS                                              |
| CMYK                           | Pillow's conversion, without a colour profile (none is applied to any mode)         |
| P                              | the palette's colours                                                               |
| RGBA, LA, PA, RGBa, La; and    | the stored colours without alpha, as timm and torchvision read them; laid on white  |
| P, L, RGB with transparency    | where the backbone's configuration has do_convert_rgb, as transformers reads them   |
| I;16, I;16L, I;16B, I;16N      | grey: the upper 8 bits of 16, or of 12 in a TIFF of 12; inverted where 0 is white   |
| I of a PNG, PGM or PPM file    | grey: the upper 8 bits of the 16 that Pillow scales these files to                  |
| I of any other file, F         | refused: the file does not state the range of its values                            |

Colours of 16 bits (RGB, RGBA, LA, CMYK) are cut to their upper 8 bits by Pillow. EXIF's orientation is applied.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

HEAD = 32  # bytes of a file's beginning that tell most formats and a PNG's depth
_PNG = b"\x89PNG\r\n\x1a\n"
# Beginnings of the other formats with grey of more than 8 bits: TIFF, PGM, JPEG 2000.
_PERHAPS_DEEP = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P5", b"P2", b"Pf", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)  # of Pillow
_PHOTOMETRIC, _BITS, _ORIENTATION = 262, 258, 274  # tags of a TIFF file
_MAPPED = ("L", "P", "RGBX", "RGBA", "CMYK", "I;16", "I;16L", "I;16B")


class UnsupportedPicture(ValueError):
    """A picture that has no conversion to 8-bit RGB."""


def reading_changes(head: bytes, whole: Callable[[], str | bytes]) -> tuple[str, ...]:
    """What earlier versions read differently of a picture, by its header: words for `fingerprint.read_anew`.

    "grey16" is grey of more than 8 bits (modes I, F, I;16…), which was clipped at 255; "turned" is a rotated,
    uncompressed TIFF of grey or a palette, whose rows Pillow confuses when it maps the file into memory.

    Args:
        head: its first `HEAD` bytes.
        whole: gives the file's path, or its bytes, if the head does not suffice.

    Returns:
        No words for an ordinary or a broken picture.
    """
    from PIL import Image as Pillow

    if head.startswith(_PNG):
        return ("grey16",) if len(head) > 25 and head[24] == 16 and head[25] == 0 else ()  # depth, colour type of grey
    if not head.startswith(_PERHAPS_DEEP):
        return ()
    source = whole()
    try:
        with _opened(source) as image:
            coders = [tile[0] for tile in getattr(image, "tile", ())]
            mapped = isinstance(source, str) and image.mode in _MAPPED and coders == ["raw"]
            rotated = mapped and getattr(image, "tag_v2", {}).get(_ORIENTATION, 1) > 4
            return (*(["grey16"] if _deep(image.mode) else []), *(["turned"] if rotated else []))
    except (*BROKEN, Pillow.DecompressionBombError):
        return ()  # decoding it reports what is wrong


def file_reading_changes(path: str) -> tuple[str, ...]:
    with open(path, "rb") as stream:
        return reading_changes(stream.read(HEAD), lambda: path)


@contextmanager
def _opened(source: str | bytes) -> Iterator[Image.Image]:
    """The picture with its header read. A path is opened here, since Pillow would map the file of one."""
    from PIL import Image as Pillow

    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream, Pillow.open(stream) as image:
        yield image


def _deep(mode: str) -> bool:
    return mode == "F" or mode.startswith("I")


def rgb(source: str | bytes, *, on_white: bool = False, deep: bool = True) -> Image.Image:
    """The decoded picture of a file's path, or of its bytes; the rest is as in `to_rgb`.

    Raises:
        UnsupportedPicture: the mode is refused, or the picture is deep although `deep` is false.
        one of BROKEN, or Pillow's DecompressionBombError: the file is broken or too large.
    """
    with _opened(source) as image, _whole:
        image.load()
        return to_rgb(image, on_white=on_white, deep=deep)


class _Whole:
    """A context in which truncated files are errors, even if other code told Pillow to fill them with grey.

    The setting is the process's, and threads decode at once: the first to enter sets it, the last to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._within, self._kept = threading.Lock(), 0, False

    def __enter__(self) -> None:
        from PIL import ImageFile

        with self._lock:
            if not self._within:
                self._kept, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self._within += 1

    def __exit__(self, *error: object) -> None:
        from PIL import ImageFile

        with self._lock:
            self._within -= 1
            if not self._within:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._kept


_whole = _Whole()


def to_rgb(image: Image.Image, *, on_white: bool = False, deep: bool = True) -> Image.Image:
    """A decoded picture as the table above says.

    Args:
        on_white: lay transparent pictures on white; False: drop their alpha.
        deep: whether grey of more than 8 bits may occur.

    Raises:
        UnsupportedPicture: the mode is refused, or the picture is deep although `deep` is false.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    kind, bits, inverted = image.format, _bits(image), _white_is_zero(image)
    if image.getexif().get(Pillow.ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    if not _deep(image.mode):
        return _opaque(image, on_white)
    if not deep:
        raise UnsupportedPicture(
            f"mode {image.mode}, grey of more than 8 bits, which this data is not known to hold; save it with 8 bits"
        )
    return _grey(image, kind, bits, inverted).convert("RGB")


def _bits(image: Image.Image) -> int:
    """Bits of a 16-bit mode that are in use."""
    stated = tuple(getattr(image, "tag_v2", {}).get(_BITS, ()))
    return 12 if stated == (12,) else 16


def _white_is_zero(image: Image.Image) -> bool:
    return bool(getattr(image, "tag_v2", {}).get(_PHOTOMETRIC, 1) == 0)


def _grey(image: Image.Image, kind: str | None, bits: int, inverted: bool) -> Image.Image:
    from PIL import Image as Pillow

    if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
        what = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise UnsupportedPicture(f"mode {image.mode}, {what} values without a stated range; save it with 8 or 16 bits")
    values = np.asarray(image).astype(np.int64)
    if inverted:
        values = (1 << bits) - 1 - values
    return Pillow.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8))


def _opaque(image: Image.Image, on_white: bool) -> Image.Image:
    from PIL import Image as Pillow

    if image.mode in ("La", "RGBa"):  # alpha-multiplied colours, which Pillow converts to these alone
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if on_white and ("A" in image.getbands() or image.info.get("transparency") is not None):
        image = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")
