"""Tokenizers of single bytes with chat templates, and language models of real classes."""

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3Model,
)
from transformers.utils import is_torchvision_available

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
)
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def qwen_tokenizer() -> Qwen2Tokenizer:
    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], chat_template=CHAT)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *VISION_TOKENS]})
    return tokenizer


def qwen3():
    """What Z-Image reads its prompts with."""
    tokenizer = qwen_tokenizer()
    config = Qwen3Config(vocab_size=len(tokenizer), head_dim=8, num_key_value_heads=1, **SIZES)
    return {"tokenizer": tokenizer, "text_encoder": Qwen3Model(config).eval()}


def qwen2_5_vl():
    """What Qwen-Image reads its prompts with."""
    tokenizer = qwen_tokenizer()
    token_ids = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            tokenizer.convert_tokens_to_ids(VISION_TOKENS),
        )
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 1,
            "rope_parameters": rope,
            "max_window_layers": 3,
            **SIZES,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 14,
            "fullatt_block_indexes": [0],
        },
        **token_ids,
    )
    return {"tokenizer": tokenizer, "text_encoder": Qwen2_5_VLForConditionalGeneration(config).eval()}


class ImageAndTextProcessor(transformers.Qwen2VLProcessor):
    """A Qwen2VLProcessor without videos, which alone need torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
            [self.image_token, self.video_token]
        )
        transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


if not is_torchvision_available():
    ImageAndTextProcessor.__name__, ImageAndTextProcessor.__module__ = "Qwen2VLProcessor", "transformers"
    transformers.Qwen2VLProcessor = ImageAndTextProcessor


def qwen_processor(tokenizer: Qwen2Tokenizer) -> transformers.Qwen2VLProcessor:
    """What Qwen-Image-Edit reads its reference image with, at few patches."""
    parts = {"image_processor": Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56), "tokenizer": tokenizer}
    if is_torchvision_available():
        parts["video_processor"] = transformers.Qwen2VLVideoProcessor()
    return transformers.Qwen2VLProcessor(**parts, chat_template=CHAT)


def mistral3():
    """What FLUX.2 reads its prompts with, all three layers of it."""
    pieces = ["<pad>", "<s>", "</s>", "[IMG]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=MISTRAL_CHAT,
    )
    text = MistralConfig(
        vocab_size=len(pieces), head_dim=8, num_key_value_heads=1, **SIZES | {"num_hidden_layers": 30}
    )
    vision = PixtralVisionConfig(image_size=28, patch_size=14, **SIZES)
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=3)
    return {"tokenizer": tokenizer, "text_encoder": Mistral3ForConditionalGeneration(config).eval()}
