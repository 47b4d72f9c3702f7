"""The data of a rehearsal: handwritten digits in two styles, with the columns that `prepare_data.py` writes."""

from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from prepare_data import DIGIT_NAMES, load_digits

from .prepare_data import write_splits

STYLES = ("white on black", "black on white")
DIGITS = 400


def prepare_digits(output_dir: str | Path) -> Path:
    images, labels = load_digits()
    chosen = np.random.default_rng(0).permutation(len(labels))[:DIGITS]
    rows = []
    for number, index in enumerate(chosen):
        style, digit = STYLES[number % 2], DIGIT_NAMES[labels[index]]
        pixels = images[index] if style == STYLES[0] else 255 - images[index]
        rows.append(
            {
                "image": PILImage.fromarray(pixels),
                "text": f"handwritten {digit} {style}",
                "group_text": f"{digit} {style}",
                "category": "digits",
                "group": digit,
                "style": style,
                "item": str(index),
            }
        )
    return write_splits(rows, np.arange(DIGITS) % 8 < 2, output_dir)
