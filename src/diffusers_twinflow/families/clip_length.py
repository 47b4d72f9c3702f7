from transformers import PreTrainedTokenizerBase

from ..configuration import TwinFlowConfigError


def check_clip_length(tokenizer: PreTrainedTokenizerBase, max_sequence_length: int | None) -> None:
    """Raise a `TwinFlowConfigError` if `max_sequence_length` differs from the fixed length of a CLIP tokenizer."""
    length = tokenizer.model_max_length
    if max_sequence_length not in (None, length):
        raise TwinFlowConfigError(
            f"max_sequence_length={max_sequence_length} is not valid, because this pipeline encodes every prompt to "
            f"{length} tokens: leave max_sequence_length out, or set it to {length}."
        )
