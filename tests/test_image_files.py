import io
import os
import shutil
import socket
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.images import decode, measure
from diffusers_twinflow.image_files import (
    FORMATS,
    as_rgb,
    check_regular,
    decode_image,
    image_suffixes,
    load_image,
    open_image,
)

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(values, dtype: str, sample_format: int, orientation: int = 1) -> bytes:
    """A grey TIFF file, written by hand: Pillow writes no unsigned 32-bit values."""
    pixels = np.atleast_2d(np.array(values)).astype(dtype)
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 274: orientation, 277: 1}
    tags |= {278: height, 279: pixels.nbytes, 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    start = b"II*\0" + struct.pack("<I", 8 + pixels.nbytes) + pixels.tobytes()
    return start + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("values", "dtype", "sample_format"),
    [
        ([0, 2**15, 2**16 - 1], "<u2", UNSIGNED),
        ([0, 2**14, 2**15 - 1], "<i2", SIGNED),
        ([0, 2**31, 2**32 - 1], "<u4", UNSIGNED),
        ([0, 2**30, 2**31 - 1], "<i4", SIGNED),
        ([0, 2**15, 2**16 - 1], "<u4", UNSIGNED),
        ([0, 2**15, 2**16 - 1], "<i4", SIGNED),
        ([0, 0.5, 1], "<f4", FLOAT),
    ],
)
def test_grey_of_many_bits_spans_8_bits(values, dtype, sample_format):
    image = decode_image(io.BytesIO(tiff(values, dtype, sample_format)))
    assert np.asarray(as_rgb(image))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("kind", ["PNG", "PPM", "JPEG2000"])
def test_grey_of_16_bits_spans_8_bits_in_every_format(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 2**15, 2**16 - 1]] * 8, dtype=np.uint16)).save(buffer, kind)
    assert np.asarray(decode_image(buffer))[0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff([0, 0.5, 7], "<f4", FLOAT), "float image with values from 0 to 7, but HDR.*8 or 16 bits"),
        (tiff([0, 0.5, np.nan], "<f4", FLOAT), "HDR"),
        (tiff([-5, 0, 7], "<i4", SIGNED), "signed integers, from -5 to 7"),
    ],
)
def test_images_without_a_range_are_refused_by_the_check_and_by_training(content, message):
    for read in (measure, decode):
        with pytest.raises(ValueError, match=message):
            read({"bytes": content, "path": None})


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_every_orientation_has_one_size_for_the_check_and_for_training(kind, orientation):
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    value = {"bytes": buffer.getvalue(), "path": None}
    image = decode(value)
    assert measure(value) == image.size == ((32, 16) if orientation < 5 else (16, 32))
    corners = {1: "nw", 2: "ne", 3: "se", 4: "sw", 5: "nw", 6: "ne", 7: "se", 8: "sw"}
    x, y = {"nw": (2, 2), "ne": (-3, 2), "se": (-3, -3), "sw": (2, -3)}[corners[orientation]]
    assert image.getpixel((x % image.width, y % image.height))[0] > 200


def test_a_grey_tiff_of_16_bits_is_turned_once():
    value = {"bytes": tiff([[0, 2**15, 2**16 - 1]], "<u2", UNSIGNED, orientation=6), "path": None}
    assert measure(value) == decode(value).size == (1, 3)


@pytest.mark.parametrize(
    "content", [POSTSCRIPT, b"\xd7\xcd\xc6\x9a" + bytes(40), b"GRIB" + bytes(4) + b"\1" + bytes(40)]
)
def test_formats_that_start_other_programs_are_not_opened(tmp_path, content, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "gs").write_text(f"#!{shutil.which('sh') or '/bin/sh'}\ntouch {tmp_path / 'started'}\n")
    (tmp_path / "gs").chmod(0o755)
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UnidentifiedImageError):
        open_image(path)
    with pytest.raises(TwinFlowConfigError, match="--image .*bad.png cannot be read.*PNG"):
        load_image(str(path), option="--image")
    assert not (tmp_path / "started").exists()
    assert not {"EPS", "WMF", "GRIB", "BUFR", "HDF5", "MPEG"} & {*FORMATS}


def test_only_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "empty.png").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
        for path, message in {
            tmp_path / "fifo.png": "a FIFO",
            tmp_path / "socket.png": "a socket",
            tmp_path: "a folder",
            "/dev/zero": "a device",
            tmp_path / "empty.png": "the file is empty",
        }.items():
            with pytest.raises(ValueError, match=message):
                open_image(path)
        with pytest.raises(ValueError, match="a FIFO"):
            check_regular(tmp_path / "fifo.png")


def test_an_image_of_an_option_is_in_rgb_or_the_option_is_named(tmp_path):
    Image.new("RGBA", (2, 1), (10, 20, 30, 0)).save(tmp_path / "a.png")
    assert load_image(str(tmp_path / "a.png"), option="--image").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(TwinFlowConfigError, match="--validation_image .*none.png cannot be read.*No such file"):
        load_image(str(tmp_path / "none.png"), option="--validation_image")


def test_images_are_known_by_their_ending():
    assert {".png", ".jpg", ".jfif", ".avif", ".heic", ".jxl", ".tif"} < image_suffixes()
    assert not {".eps", ".ps", ".wmf", ".mp4", ".txt"} & image_suffixes()


@pytest.fixture
def address(tmp_path):
    """A server of the files in `tmp_path`."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_image_at_a_url(address, tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    (tmp_path / "text.png").write_text("no image")
    assert load_image(f"{address}/red.png", option="--image").size == (3, 2)
    for name, reason in (("text.png", "none of the supported formats"), ("absent.png", "404")):
        with pytest.raises(TwinFlowConfigError, match=f"--image {address}/{name} cannot be read .*{reason}"):
            load_image(f"{address}/{name}", option="--image")
