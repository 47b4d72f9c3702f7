from collections.abc import Callable

import torch

Encoder = Callable[[list[str]], tuple[torch.Tensor, ...]]


def encode_empty_apart(prompts: list[str], encode: Encoder, encode_empty: Encoder) -> tuple[torch.Tensor, ...]:
    """Encode prompts for a pipeline that treats the empty prompt differently from the others.

    Args:
        prompts: the prompts, of which some may be empty.
        encode, encode_empty: functions that take a list of prompts and return tensors with this batch size. All
            tensors have the same length.

    Returns:
        Tensors of batch size `len(prompts)`, in the order of the prompts.
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
