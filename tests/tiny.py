"""Real classes at tiny size."""

import string

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

SD3_CONFIG = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 8,
}


def sd3_transformer(cls=SD3Transformer2DModel, seed: int = 0, **changes) -> SD3Transformer2DModel:
    torch.manual_seed(seed)
    return cls(**{**SD3_CONFIG, **changes}).eval()


def sd3_condition(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "prompt_embeds": torch.randn(batch, 3, 16, generator=generator),
        "pooled_prompt_embeds": torch.randn(batch, 16, generator=generator),
    }


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *string.ascii_lowercase,
        *(f"{c}</w>" for c in string.ascii_lowercase),
    ]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=16)


def sd3_pipeline(seed: int = 0, channels: int = 4) -> StableDiffusion3Pipeline:
    transformer = sd3_transformer(seed=seed, in_channels=channels, out_channels=channels)
    tokenizer = clip_tokenizer()
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=16,
        shift_factor=0.1,
        scaling_factor=1.5,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=CLIPTextModelWithProjection(text_config).eval(),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text_config).eval(),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def image_folder(directory, count: int = 8) -> None:
    """A folder that `datasets` reads as an image folder with captions."""
    directory.mkdir(parents=True)
    rows = []
    for i in range(count):
        colour = tuple(int(c) for c in torch.randint(0, 255, (3,), generator=torch.Generator().manual_seed(i)))
        Image.new("RGB", (16, 16), colour).save(directory / f"{i}.png")
        rows.append(f'{{"file_name": "{i}.png", "text": "{"ab"[i % 2]} picture"}}')
    (directory / "metadata.jsonl").write_text("\n".join(rows))
