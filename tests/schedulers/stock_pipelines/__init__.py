"""Stock flow-matching pipelines with tiny real components. Prompts are given as embeddings, so that they run fast.

`PIPELINES` holds, by a name that says what is special about the way the pipeline talks to its scheduler, a function that
returns the pipeline with its stock scheduler and the arguments of a call. `VARIANTS` holds, by the name of their class,
those that talk to it as one of these does. `cannot.CANNOT` says of all others why they cannot take the scheduler.
"""

from . import (
    audio,
    flux,
    hunyuan,
    images,
    kandinsky,
    long_video,
    more_video,
    negated,
    qwen,
    stable_diffusion_3,
    text_encoders,
    video,
)
from .building import PIPELINES, VARIANTS

__all__ = [
    "PIPELINES",
    "VARIANTS",
    "audio",
    "flux",
    "hunyuan",
    "images",
    "kandinsky",
    "long_video",
    "more_video",
    "negated",
    "qwen",
    "stable_diffusion_3",
    "text_encoders",
    "video",
]
