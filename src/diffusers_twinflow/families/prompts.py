"""Helpers of families for encoding prompts."""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ..configuration import TwinFlowConfigError

Encoder = Callable[[list[str]], tuple[torch.Tensor, ...]]


def check_clip_length(tokenizer: PreTrainedTokenizerBase, max_sequence_length: int | None) -> None:
    """Raise a `TwinFlowConfigError` if `max_sequence_length` differs from the fixed length of a CLIP tokenizer."""
    length = tokenizer.model_max_length
    if max_sequence_length not in (None, length):
        raise TwinFlowConfigError(
            f"max_sequence_length={max_sequence_length} is not valid, because this pipeline encodes every prompt to "
            f"{length} tokens: leave max_sequence_length out, or set it to {length}."
        )


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


def pad_tokens(embeds: torch.Tensor, mask: torch.Tensor | None, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut or pad token embeddings to one length.

    Args:
        embeds: shape [B, L, D].
        mask: shape [B, L], true for tokens that are not padding; `None` if no token is padding.
        length: number of tokens to return.

    Returns:
        Embeddings of shape [B, length, D], and a boolean mask of shape [B, length] that is false for padding.
    """
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
    missing = max(length - embeds.shape[1], 0)
    return F.pad(embeds[:, :length], (0, 0, 0, missing)), F.pad(mask[:, :length], (0, missing))
