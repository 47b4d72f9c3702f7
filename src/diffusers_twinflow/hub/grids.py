"""Grids of images with a label above each column and a caption, such as the prompt, above each row."""

import unicodedata
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

SMALLEST_TEXT, LARGEST_TEXT = 12, 30
TEXT_PER_WIDTH = 24
CAPTION_LINES = 2
BACKGROUND, LABEL_COLOUR, CAPTION_COLOUR = "white", "#111111", "#444444"
WIDER_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc")
"""Fonts of the system, for text that Pillow's own font has no glyphs for."""
NO_CHARACTER = "\U0010ffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def labelled_grid(columns: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] = ()) -> Image.Image:
    """One image of columns of equal length, by label, first column on the left.

    Args:
        captions: texts above the rows, such as their prompts; each is above an equal number of rows. None by default.

    Raises:
        ValueError: if the columns differ in length, or the rows cannot be shared equally by the captions.
    """
    return GridLayout(columns, captions).draw(columns)


class GridLayout:
    """Where each image and text of a grid goes.

    Attributes:
        size: width and height of the whole grid.
        boxes: left, top, right and bottom of each image, by row and column.

    Args:
        columns, captions: as in `labelled_grid`; all images have the same size.
    """

    def __init__(self, columns: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] = ()) -> None:
        self.labels, images = list(columns), list(columns.values())
        row_count = len(images[0])
        if any(len(column) != row_count for column in images) or (captions and row_count % len(captions)):
            raise ValueError("the columns of a grid must have the same length, a multiple of the number of captions")
        rows_per_caption = row_count // len(captions) if captions else row_count
        width, height = images[0][0].size
        self.text_size = min(max(width // TEXT_PER_WIDTH, SMALLEST_TEXT), LARGEST_TEXT)
        self.margin = self.text_size // 2
        self.line_height = round(self.text_size * 1.4)
        label_width = max(_font(label, self.text_size).getlength(label) for label in self.labels)
        cell_width = max(width, round(label_width))
        self.size = [self.margin + len(images) * (cell_width + self.margin), 0]
        caption_width = self.size[0] - 2 * self.margin
        self.captions = [_wrap(_one_line(caption), self.text_size, caption_width) for caption in captions]
        self.label_centres = [
            self.margin + column * (cell_width + self.margin) + cell_width // 2 for column in range(len(images))
        ]
        self.caption_tops, self.boxes = [], []
        top = 2 * self.margin + self.line_height
        for row in range(row_count):
            if captions and row % rows_per_caption == 0:
                self.caption_tops.append(top)
                top += self.line_height * len(self.captions[row // rows_per_caption]) + self.margin // 2
            lefts = [centre - width // 2 for centre in self.label_centres]
            self.boxes.append([(left, top, left + width, top + height) for left in lefts])
            top += height + self.margin * (2 if captions else 1)
        self.size[1] = top

    def draw(self, columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
        """The grid of images that have the labels and sizes of those it was laid out for."""
        grid = Image.new("RGB", (self.size[0], self.size[1]), BACKGROUND)
        pen = ImageDraw.Draw(grid)
        for label, centre in zip(self.labels, self.label_centres, strict=True):
            font = _font(label, self.text_size)
            pen.text((centre, self.margin), label, fill=LABEL_COLOUR, font=font, anchor="ma")
        for lines, top in zip(self.captions, self.caption_tops, strict=False):
            for number, line in enumerate(lines):
                place = (self.margin, top + number * self.line_height)
                pen.text(place, line, fill=CAPTION_COLOUR, font=_font(line, self.text_size))
        for i, images in enumerate(columns.values()):
            for boxes, image in zip(self.boxes, images, strict=True):
                grid.paste(image, boxes[i][:2])
        return grid


def _one_line(text: str) -> str:
    """A text without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(c).startswith("C") else c for c in text).split())


def _wrap(text: str, size: int, width: int) -> list[str]:
    """A text in a few lines that are not wider than `width`; what does not fit becomes an ellipsis."""
    font, rest = _font(text, size), text
    lines: list[str] = []
    while len(lines) < CAPTION_LINES and rest:
        length = _fitting(rest, font, width)
        if length < len(rest) and len(lines) < CAPTION_LINES - 1 and " " in rest[: length + 1]:
            length = rest[: length + 1].rindex(" ") or length
        lines.append(rest[:length])
        rest = rest[length:].lstrip()
    if rest:
        last = lines[-1]
        lines[-1] = last[: _fitting(last, font, width - font.getlength("…"))].rstrip() + "…"
    return lines or [""]


def _fitting(text: str, font: Font, width: float) -> int:
    """How many characters of a text fit in a width; at least one."""
    low, high = 1, min(len(text), max(1, int(width)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _font(text: str, size: int) -> Font:
    """The first font that has all characters of a text; Pillow's own if none has."""
    own = ImageFont.load_default(size)
    if _has_glyphs(own, text):
        return own
    for name in WIDER_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:  # the system has no such font
            continue
        if _has_glyphs(font, text):
            return font
    return own


def _has_glyphs(font: Font, text: str) -> bool:
    missing = bytes(font.getmask(NO_CHARACTER))
    return all(bytes(font.getmask(character)) != missing for character in set(text) if not character.isspace())
