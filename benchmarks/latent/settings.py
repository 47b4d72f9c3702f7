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
        warm_up_steps: optimizer steps over which the learning rate of the base rises.
        base_batch_size, batch_size: samples per step of the base and of the distillations.
        judge_size: side of the images that the judge sees, 4 times 2 to the number of its blocks.
        judge_channels: channels of the judge's blocks.
        judge_seconds: time to train the judge.
        shared_prompts: number of images of captions of groups.
        known_prompts: number of images of names, one each.
        scan_prompts: number of images per guidance scale that is tried.
        guidance_scales: guidance scales that are tried for the base.
        draw_steps: steps of the base's best images. Guidance doubles the evaluations.
        draw_batch: images per call.
        few_steps: steps of the distilled models, and of the base with stock schedulers.
    """

    image_size: int
    text_width: int
    max_tokens: int
    num_layers: int
    num_heads: int
    warm_up_steps: int
    base_batch_size: int
    batch_size: int
    judge_size: int
    judge_channels: tuple[int, ...]
    judge_seconds: float
    shared_prompts: int
    known_prompts: int
    scan_prompts: int
    guidance_scales: tuple[float, ...]
    draw_steps: int
    draw_batch: int
    few_steps: tuple[int, ...] = (1, 2, 4, 8)
    seed: int = 0


FULL = Settings(
    image_size=256,
    text_width=256,
    max_tokens=24,
    num_layers=8,
    num_heads=10,
    warm_up_steps=300,
    base_batch_size=256,
    batch_size=256,
    judge_size=128,
    judge_channels=(32, 64, 128, 192, 256),
    judge_seconds=35,
    shared_prompts=1_500,
    known_prompts=250,
    scan_prompts=512,
    guidance_scales=(1.0, 1.5, 2.0, 3.0),
    draw_steps=50,
    draw_batch=256,
)
REHEARSAL = Settings(
    image_size=32,
    text_width=16,
    max_tokens=8,
    num_layers=1,
    num_heads=1,
    warm_up_steps=2,
    base_batch_size=4,
    batch_size=4,
    judge_size=16,
    judge_channels=(4, 4),
    judge_seconds=0.2,
    shared_prompts=16,
    known_prompts=4,
    scan_prompts=4,
    guidance_scales=(1.0, 2.0),
    draw_steps=2,
    draw_batch=8,
    few_steps=(1, 2),
)
