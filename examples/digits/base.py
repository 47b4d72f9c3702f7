"""Where the digits base is and how stock diffusers loads it."""

from pathlib import Path

from diffusers import StableDiffusion3Pipeline

DEFAULT_BASE_DIR = "examples/digits/base"


def load_base(base: str | Path) -> StableDiffusion3Pipeline:
    """The base in float32, without a T5 encoder: call it with `max_sequence_length=1`, the length of T5's placeholder."""
    if not (Path(base) / "model_index.json").is_file():
        raise FileNotFoundError(
            f"No pipeline in base={base}: give the folder of the digits base, or build it as examples/digits/README.md says."
        )
    return StableDiffusion3Pipeline.from_pretrained(base, text_encoder_3=None, tokenizer_3=None)
