import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from attn_lstm.data import image_file

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 36, 3), np.uint8)


def encoded(image: Image.Image | np.ndarray, form: str, **options) -> bytes:
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, form, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of PNG."""
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG written by hand: `colour` 0 is grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    notes = Image.Exif()
    notes[ExifTags.Base.Make] = "a camera"
    notes[ExifTags.Base.Orientation] = orientation
    return notes.tobytes()


# -------------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_lossless_formats_give_back_what_was_saved(form, mode):
    image = Image.fromarray(NOISE).convert(mode)
    if (form, mode) == ("GIF", "RGB"):
        image = image.quantize(256)
    got = image_file.decode(encoded(image, form))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_webp_gives_back_what_was_saved():
    np.testing.assert_array_equal(
        image_file.decode(encoded(NOISE, "WEBP", lossless=True, exact=True)), NOISE
    )


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparency_is_dropped_and_leaves_the_colours(form):
    alpha = RNG.integers(0, 256, (*NOISE.shape[:2], 1), np.uint8)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    content = encoded(np.concatenate([NOISE, alpha], axis=-1), form, **options)
    np.testing.assert_array_equal(image_file.decode(content), NOISE)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_transparent_colour_of_a_palette_stays_that_colour(transparency):
    image = Image.fromarray(NOISE).quantize(256)
    got = image_file.decode(encoded(image, "PNG", transparency=transparency))
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_of_16_bits_the_upper_8_are_taken(colour):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    values = RNG.integers(0, 2**16, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    got = image_file.decode(png(7, 5, 16, colour, rows))
    want = (values >> 8)[..., : 3 if channels > 2 else 1]
    np.testing.assert_array_equal(got, np.broadcast_to(want, (5, 7, 3)))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if form == "WEBP" else {}
        content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(
            image_file.decode(content), np.broadcast_to(np.uint8([255, 0, 0]), (4, 5, 3))
        )


def test_no_text_or_profile_is_too_large_for_a_sound_png():
    text = b"note\0\0" + zlib.compress(bytes(2**22), 9)  # 4 KB that unpack to 4 MiB
    international = b"note\0\1\0\0\0" + zlib.compress(bytes(2**22), 9)
    notes = {
        b"zTXt": text,
        b"iTXt": international,
        b"iCCP": text,
        b"tEXt": b"note\0" + b"x" * 10**7,
    }
    rows = b"".join(b"\0" + row.tobytes() for row in NOISE)
    for kind, content in notes.items():
        image = png(36, 24, 8, 2, rows, chunk(kind, content))
        np.testing.assert_array_equal(image_file.decode(image), NOISE)
        with pytest.raises(ValueError):
            image_file.decode(image[:-30])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_header_gives_the_stored_sides_and_the_turn(tmp_path, form, orientation):
    (tmp_path / "x").write_bytes(encoded(NOISE, form, exif=exif(orientation)))
    turn = orientation if 1 <= orientation <= 8 else 1
    assert image_file.read_header(tmp_path / "x") == (36, 24, turn)


def test_a_header_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "x").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot identify"):
        image_file.read_header(tmp_path / "x")
    with pytest.raises(OSError, match="No such file"):
        image_file.read_header(tmp_path / "none")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_upright(form, orientation):
    content = encoded(NOISE, form, exif=exif(orientation))
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    np.testing.assert_array_equal(image_file.decode(content), np.asarray(want))
    sideways = orientation in (5, 6, 7, 8)
    assert want.size == ((24, 36) if sideways else (36, 24))


@pytest.mark.parametrize(
    "notes", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 30, exif(6)[:20]]
)
def test_damaged_notes_ask_for_nothing(notes):
    content = encoded(NOISE, "PNG", exif=notes)
    np.testing.assert_array_equal(image_file.decode(content), NOISE)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_notes_of_other_kinds_turn_nothing(form):
    notes = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", notes.decode())
    options = {"pnginfo": info} if form == "PNG" else {"xmp": notes}
    content = encoded(NOISE, form, **options)
    assert notes in content
    plain = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(image_file.decode(content), plain)


@pytest.mark.parametrize("transform", [0, 2])  # CMYK and YCCK
def test_print_colours_are_as_pillow_shows_them(transform):
    content = bytearray(encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = transform
    want = Image.open(io.BytesIO(content)).convert("RGB")
    np.testing.assert_array_equal(image_file.decode(bytes(content)), np.asarray(want))


# ----------------------------------------------------------------------------- what is refused


def complaint(content: bytes, **options) -> str:
    with pytest.raises(ValueError) as caught:
        image_file.decode(content, **options)
    assert str(caught.value) and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("content", [b"no image", b"<svg></svg>", b"\0" * 100, b"II*\0", b"P6 9 9"])
def test_what_is_no_image_is_told_the_formats(content):
    assert complaint(content) == "not an image: none of JPEG, PNG, BMP, GIF, WEBP"
    assert complaint(encoded(NOISE, "TIFF")).startswith("not an image: none of")
    assert complaint(b"") == "an empty file: none of JPEG, PNG, BMP, GIF, WEBP"


@pytest.mark.parametrize("form", image_file.FORMATS)
def test_truncated_files_are_refused_wherever_they_end(form):
    content = encoded(NOISE, form)
    # What the last bytes hold is a checksum or a mark, not the picture.
    for end in range(0, len(content) - 32, 7):
        complaint(content[:end])


@pytest.mark.parametrize("form", image_file.FORMATS)
def test_the_limit_of_pixels_is_exact(form):
    content = encoded(NOISE, form)
    assert image_file.decode(content, 24 * 36).shape == NOISE.shape
    assert complaint(content, max_pixels=24 * 36 - 1) == (
        "36 x 24 pixels are more than data.max_pixels=863: make it smaller, or raise that limit"
    )


def test_no_side_is_longer_than_resizing_can_bear():
    content = png(70_000, 1, 1, 0, bytes(1 + 70_000 // 8))
    assert "no side may exceed 65535" in complaint(content)


def bombs() -> dict[str, bytes]:
    """Small files that promise far more pixels than there is memory for."""
    jpeg = bytearray(encoded(NOISE, "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = b"\xff\xff\xff\xff"
    gif = bytearray(encoded(Image.fromarray(NOISE).quantize(16), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    bmp = bytearray(encoded(NOISE, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    webp = bytearray(encoded(np.dstack([NOISE, NOISE[..., 0]]), "WEBP"))
    place = webp.index(b"VP8X") + 12
    webp[place : place + 6] = b"\xff\x7f\x00" * 2
    text = zlib.compress(bytes(10**8))
    return {
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "webp": bytes(webp),
        # All of it is there: 900 million pixels, in a tenth of a megabyte.
        "png": png(30_000, 30_000, 1, 0, bytes(30_000 * (1 + 30_000 // 8))),
        "text in a png": png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"a\0\0" + text)),
    }


def test_bombs_are_refused_before_there_is_room_made_for_them(tmp_path):
    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
    code = (
        "import resource, sys, pathlib\n"
        "from attn_lstm.data import image_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for file in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try:\n"
        "        print(file.name, image_file.decode(file.read_bytes()).shape)\n"
        "    except ValueError as error:\n"
        "        print(file.name, error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    *lines, megabytes = done.stdout.splitlines()
    assert len(lines) == len(bombs())
    assert int(megabytes) < 64, done.stdout
