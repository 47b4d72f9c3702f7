"""The two sizes of the benchmark: the real one, for a GPU, and a rehearsal for a CPU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        image_size: side of the images in pixels. Latents are an eighth of it.
        text_width: width of each of the two frozen text encoders.
        max_tokens: length of an encoded prompt.
        num_layers, num_heads: size of the transformer; a head has 64 channels.
        base_steps, base_batch_size: optimizer steps of the base, and samples per step.
        steps, batch_size: optimizer steps of the distillation, and samples per step.
        prompts: number of prompts to draw.
        draw_steps: steps of the base's best images.
        few_steps: steps of the distilled model, and of the base with stock schedulers.
    """

    image_size: int
    text_width: int
    max_tokens: int
    num_layers: int
    num_heads: int
    base_steps: int
    base_batch_size: int
    steps: int
    batch_size: int
    prompts: int
    draw_steps: int
    few_steps: tuple[int, ...] = (1, 2, 4, 8)
    seed: int = 0


FULL = Settings(
    image_size=256,
    text_width=256,
    max_tokens=24,
    num_layers=8,
    num_heads=10,
    base_steps=20_000,
    base_batch_size=256,
    steps=4_000,
    batch_size=256,
    prompts=1_000,
    draw_steps=50,
)
REHEARSAL = Settings(
    image_size=32,
    text_width=16,
    max_tokens=8,
    num_layers=1,
    num_heads=1,
    base_steps=2,
    base_batch_size=4,
    steps=2,
    batch_size=4,
    prompts=3,
    draw_steps=4,
    few_steps=(1, 2),
)
