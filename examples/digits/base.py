"""Load the digits base with stock diffusers."""

from pathlib import Path

from diffusers import StableDiffusion3Pipeline

DEFAULT_BASE_DIR = "examples/digits/base"


def load_base(base: str | Path) -> StableDiffusion3Pipeline:
    """Load the base in float32 without a T5 encoder. Call it with `max_sequence_length=1`, the length of its placeholder."""
    if not (Path(base) / "model_index.json").is_file():
        raise FileNotFoundError(
            f"There is no pipeline in base={base}. Give the folder of the digits base, or build it as in examples/digits/README.md."
        )
    return StableDiffusion3Pipeline.from_pretrained(base, text_encoder_3=None, tokenizer_3=None)
