import pytest
from PIL import Image

from diffusers_twinflow.hub.grids import CAPTION_LINES, GridLayout, _wrap, labelled_grid

COLOURS = {"base, 50 steps": ["red", "green"], "1 step": ["blue", "yellow"], "2 steps": ["cyan", "magenta"]}


def columns(size=(64, 48)):
    return {label: [Image.new("RGB", size, colour) for colour in colours] for label, colours in COLOURS.items()}


@pytest.mark.parametrize("captions", [(), ("a fox", "a prompt " * 40)])
@pytest.mark.parametrize("size", [(8, 8), (64, 48), (512, 256)])
def test_every_image_is_in_its_box_and_untouched(size, captions):
    images = columns(size)
    layout, grid = GridLayout(images, captions), labelled_grid(images, captions)
    assert grid.size == tuple(layout.size)
    for column, column_images in enumerate(images.values()):
        for row, image in enumerate(column_images):
            left, top, right, bottom = layout.boxes[row][column]
            assert left >= 0 and right <= grid.width and top > 0 and bottom <= grid.height
            assert grid.crop((left, top, right, bottom)).tobytes() == image.tobytes()


def ink(grid: Image.Image, box) -> int:
    """Pixels of a box that are not white."""
    return sum(count for count, colour in grid.crop(box).getcolors(1 << 20) if colour != (255, 255, 255))


def test_labels_are_above_their_columns_and_captions_above_their_rows():
    images = columns((128, 96))
    layout, grid = GridLayout(images, ["a fox", "a hen"]), labelled_grid(images, ["a fox", "a hen"])
    for left, _, right, _ in layout.boxes[0]:
        assert ink(grid, (left, 0, right, layout.caption_tops[0])) > 20
    for top, boxes in zip(layout.caption_tops, layout.boxes, strict=True):
        assert ink(grid, (0, top, boxes[0][2], boxes[0][1])) > 20
    other = labelled_grid(images, ["a fox", "a dog"])
    assert other.size == grid.size and other.tobytes() != grid.tobytes()


def test_a_long_caption_is_cut_with_an_ellipsis():
    lines = _wrap("many words " * 100, 12, 200)
    assert len(lines) == CAPTION_LINES and lines[-1].endswith("…") and not lines[0].endswith(" ")
    assert _wrap("x" * 100_000, 12, 200)[-1].endswith("…")
    assert _wrap("short", 12, 200) == ["short"] and _wrap("", 12, 200) == [""]


@pytest.mark.parametrize("text", ["狐在雪中", "🦊\n\x1b[2J\u202e", "a\ud800b", ""])
def test_any_text_can_be_a_caption(text):
    labelled_grid(columns(), [text, text])


@pytest.mark.parametrize("captions", [["one"], ["one", "two", "three"]])
def test_a_caption_is_above_the_rows_that_share_it(captions):
    images = {label: column * 3 for label, column in columns().items()}
    layout = GridLayout(images, captions)
    assert len(layout.caption_tops) == len(captions)
    shared = 6 // len(captions)
    for number, top in enumerate(layout.caption_tops):
        assert top < layout.boxes[number * shared][0][1]
        assert number == 0 or top >= layout.boxes[number * shared - 1][0][3]


def test_columns_of_other_lengths_are_refused():
    uneven = columns() | {"longer": [Image.new("RGB", (64, 48))] * 3}
    for images, captions in ((uneven, []), (columns(), ["one", "two", "three"])):
        with pytest.raises(ValueError, match="same length"):
            labelled_grid(images, captions)
