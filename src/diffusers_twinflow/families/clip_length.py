from transformers import PreTrainedTokenizerBase

from ..configuration import TwinFlowConfigError


def check_clip_length(tokenizer: PreTrainedTokenizerBase, max_sequence_length: int | None) -> None:
    """Refuse a length of prompts that a pipeline, which pads them to its tokenizer's length, would not encode."""
    length = tokenizer.model_max_length
    if max_sequence_length not in (None, length):
        raise TwinFlowConfigError(
            f"max_sequence_length={max_sequence_length}, but every prompt of this pipeline is {length} tokens long: "
            f"leave max_sequence_length out, or set it to {length}."
        )
