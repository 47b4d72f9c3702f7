"""Draw grids of images with a label above each column and a caption, such as the prompt, above each row."""

import unicodedata
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

SMALLEST_TEXT, LARGEST_TEXT = 12, 30
TEXT_PER_WIDTH = 24
CAPTION_LINES = 2
BACKGROUND, LABEL_COLOUR, CAPTION_COLOUR = "white", "#111111", "#444444"
WIDER_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc")
"""System fonts for text that Pillow's default font has no glyphs for."""
NO_CHARACTER = "\U0010ffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def labelled_grid(columns: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] = ()) -> Image.Image:
    """Draw columns of images as one image, with a label above each column.

    Args:
        columns: images by label, from left to right. All columns have the same length.
        captions: texts above the rows, such as prompts. Each is above the same number of rows. Defaults to none.

    Returns:
        The grid as one image.

    Raises:
        ValueError: if the columns differ in length, or the rows cannot be shared equally by the captions.
    """
    return GridLayout(columns, captions).draw(columns)


class GridLayout:
    """The positions of the images and texts in a grid.

    Attributes:
        size: width and height of the whole grid in pixels.
        boxes: left, top, right and bottom of each image in pixels, by row and column.

    Args:
        columns, captions: as in `labelled_grid`. All images have the same size.
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
        """Draw the grid. `columns` must have the same labels and image sizes as the columns of the layout."""
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
    """Remove line breaks and control characters from a text."""
    return " ".join("".join(" " if unicodedata.category(c).startswith("C") else c for c in text).split())


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Break a text into a few lines that fit into `width` pixels. The rest is cut off with an ellipsis."""
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
    """Return how many characters of a text fit into `width` pixels, at least one."""
    low, high = 1, min(len(text), max(1, int(width)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _font(text: str, size: int) -> Font:
    """Return the first font that has all characters of a text, or Pillow's default font if none has."""
    own = ImageFont.load_default(size)
    if _has_glyphs(own, text):
        return own
    for name in WIDER_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:  # the font is not installed
            continue
        if _has_glyphs(font, text):
            return font
    return own


def _has_glyphs(font: Font, text: str) -> bool:
    missing = bytes(font.getmask(NO_CHARACTER))
    return all(bytes(font.getmask(character)) != missing for character in set(text) if not character.isspace())
