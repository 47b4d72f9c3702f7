"""Build the text part of a small base: a word-level CLIP tokenizer and small CLIP text encoders with random weights."""

import torch
import torch.nn as nn
from prepare_data import DIGIT_NAMES
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

START_TOKEN, END_TOKEN, UNKNOWN_TOKEN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
WORDS = ("a", "handwritten", "the", "digit", "number", "of", "image", *DIGIT_NAMES)
MAX_TOKENS = 8
HIDDEN_SIZE = 32


def build_tokenizer() -> CLIPTokenizer:
    """Build a `CLIPTokenizer` with one token per word. Other words are split into letters or become the unknown token."""
    vocabulary, merges = word_vocabulary(WORDS)
    return clip_tokenizer(vocabulary, merges, MAX_TOKENS)


def clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], max_tokens: int) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=UNKNOWN_TOKEN,
        bos_token=START_TOKEN,
        eos_token=END_TOKEN,
        pad_token=END_TOKEN,
        model_max_length=max_tokens,
    )


def word_vocabulary(words: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return tokens and merges of a byte pair encoding that joins exactly these words, letter by letter from the left."""
    tokens, merges = [START_TOKEN, END_TOKEN, UNKNOWN_TOKEN], []
    for word in words:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        prefix = letters[0]
        for letter in letters[1:]:
            merges.append((prefix, letter))
            prefix += letter
    pieces = [piece for merge in merges for piece in (*merge, "".join(merge))]
    single_letters = [f"{word}</w>" for word in words if len(word) == 1]
    tokens = list(dict.fromkeys([*tokens, *single_letters, *pieces]))
    return {token: index for index, token in enumerate(tokens)}, list(dict.fromkeys(merges))


def build_text_encoder(
    tokenizer: CLIPTokenizer, seed: int = 0, hidden_size: int = HIDDEN_SIZE
) -> CLIPTextModelWithProjection:
    """Build a frozen two-layer text encoder with random weights, which is enough to distinguish words."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        projection_dim=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModelWithProjection(config)
        # Ten times the default scale, so that words differ clearly in the hidden states and in the pooled output.
        nn.init.normal_(text_encoder.get_input_embeddings().weight, std=0.3)
    return text_encoder.eval().requires_grad_(False)
