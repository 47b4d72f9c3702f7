from collections.abc import Callable

import torch

Encoder = Callable[[list[str]], tuple[torch.Tensor, ...]]


def encode_empty_apart(prompts: list[str], encode: Encoder, encode_empty: Encoder) -> tuple[torch.Tensor, ...]:
    """Tensors of batch `len(prompts)`, where a pipeline words an empty prompt in another way than the others.

    Args:
        encode, encode_empty: take a list of prompts and return tensors of that batch, all of one length.
    """
    filled = [position for position, prompt in enumerate(prompts) if prompt]
    empty = [position for position, prompt in enumerate(prompts) if not prompt]
    parts = [
        function([prompts[position] for position in positions])
        for function, positions in ((encode, filled), (encode_empty, empty))
        if positions
    ]
    rows = filled + empty
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return tuple(torch.cat(tensors)[order] for tensors in zip(*parts))
