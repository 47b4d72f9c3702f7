"""Encode the conditions of prompts during training, or once before it."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from accelerate import PartialState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, send
from .cache import Entry, TensorCache, batched, fill_cache
from .encoders import encoder_modules, seeded, weights_identity


class Conditions:
    """Returns the condition of a batch of prompts.

    Args:
        encode: takes a list of B prompts and returns their condition, tensors with batch size B.
        device: device of the returned conditions.
        cache: cache of encoded prompts. `None` encodes every batch again.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Condition],
        device: torch.device | str = "cpu",
        cache: TensorCache | None = None,
    ) -> None:
        self.encode, self.device, self.cache = encode, device, cache

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Condition:
        if self.cache is None:
            return self.encode(prompts)
        keys = {prompt: prompt_key(prompt) for prompt in prompts}
        for prompt, key in keys.items():
            if key not in self.cache:
                self.cache.add(encode_entries(self.encode, [prompt]))
                self.cache.flush()
        entries = [self.cache[keys[prompt]] for prompt in prompts]
        return send({name: self._stacked([entry[name] for entry in entries]) for name in entries[0]}, self.device)

    def _stacked(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """Stack rows in memory that is sent to a GPU without a wait."""
        shape, pins = (len(rows), *rows[0].shape), torch.device(self.device).type == "cuda"
        host = torch.empty(shape, dtype=rows[0].dtype, pin_memory=pins)
        return torch.stack(rows, out=host)


def cache_conditions(
    prompts: list[str],
    encode: Callable[[list[str]], Condition],
    cache: TensorCache,
    *,
    batch_size: int,
    processes: PartialState | None = None,
) -> None:
    """Encode every prompt once into `cache`.

    Args:
        encode: takes a list of B prompts and returns their condition, tensors with batch size B.
        batch_size: number of prompts to encode at once.
    """

    def encode_batches(batches: list[dict[str, str]]) -> Iterator[dict[str, Entry]]:
        for batch in batches:
            yield encode_entries(encode, list(batch.values()))

    fill_cache(
        cache,
        batched({prompt_key(prompt): prompt for prompt in prompts}, batch_size),
        encode_batches,
        processes=processes or PartialState(),
        description="Encoding prompts",
    )


def text_identity(
    pipeline: DiffusionPipeline, denoisers: Collection[str], name: str, max_sequence_length: int | None
) -> dict[str, Any]:
    """Return everything besides the prompt that conditions depend on.

    Args:
        denoisers: names of the trained components.
        name: name of the base.
    """
    modules = encoder_modules(pipeline, denoisers)
    return {
        "kind": "conditions",
        "model": name,
        "pipeline": type(pipeline).__name__,
        "encoders": {key: weights_identity(module) for key, module in modules.items() if key != "vae"},
        "max_sequence_length": max_sequence_length,
    }


def prompt_key(prompt: str) -> str:
    """Return the cache key of a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


@torch.no_grad()
def encode_entries(encode: Callable[[list[str]], Condition], prompts: list[str]) -> dict[str, Entry]:
    """Encode prompts and return the condition of each by its key, on the CPU and without a batch dimension."""
    keys = [prompt_key(prompt) for prompt in prompts]
    with seeded(*keys):
        condition = {name: tensor.cpu() for name, tensor in encode(prompts).items()}
    return {key: {name: tensor[row].clone() for name, tensor in condition.items()} for row, key in enumerate(keys)}
