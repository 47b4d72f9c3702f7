"""Build the digits base: a `StableDiffusion3Pipeline` whose components are real classes at a small size.

This script trains the autoencoder. The text encoders keep their random weights. Train the transformer afterwards with
`examples/train_twinflow.py`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn as nn
from autoencoder import (
    LATENT_CHANNELS,
    build_autoencoder,
    equalize_latent_channels,
    reconstruct,
    set_latent_statistics,
    train_autoencoder,
)
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from judge import agreement, extract_features, load_judge
from prepare_data import DEFAULT_DATA_DIR, load_split
from text import HIDDEN_SIZE, build_text_encoder, build_tokenizer

DEFAULT_OUTPUT_DIR = "outputs/digits/untrained_base"
STATISTICS_IMAGES = 1000


def build_transformer(seed: int, *, num_layers: int = 6, num_attention_heads: int = 4) -> SD3Transformer2DModel:
    """Build a transformer for 16 image tokens and 9 text tokens with width 128 and the zero initialization of DiT."""
    width = 32 * num_attention_heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=num_layers,
            attention_head_dim=32,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=2 * HIDDEN_SIZE,
            caption_projection_dim=width,
            pooled_projection_dim=2 * HIDDEN_SIZE,
            pos_embed_max_size=4,
            qk_norm="rms_norm",
        )
    zero_initialize(transformer)
    return transformer


def zero_initialize(transformer: SD3Transformer2DModel) -> None:
    """Set the modulations and the last layer to 0, so that each block starts as the identity and the velocity as 0."""
    layers = [transformer.norm_out.linear, transformer.proj_out]
    for block in transformer.transformer_blocks:
        layers += [block.norm1.linear, block.norm1_context.linear]
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def assemble(autoencoder: AutoencoderKL, seed: int) -> StableDiffusion3Pipeline:
    """Build the pipeline from a trained autoencoder. It has no T5 encoder, so call it with `max_sequence_length=1`."""
    tokenizer, tokenizer_2 = build_tokenizer(), build_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=build_transformer(seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder,
        text_encoder=build_text_encoder(tokenizer, seed),
        tokenizer=tokenizer,
        text_encoder_2=build_text_encoder(tokenizer_2, seed + 1),
        tokenizer_2=tokenizer_2,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def save_base(pipeline: StableDiffusion3Pipeline, output_dir: str | Path) -> int:
    """Save the transformer in float16 (it loads as float32) and the rest in float32. Returns the size in bytes."""
    pipeline.transformer.half()
    pipeline.save_pretrained(output_dir)
    return folder_bytes(output_dir)


def folder_bytes(output_dir: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(output_dir).rglob("*") if path.is_file())


def train_base_autoencoder(images: torch.Tensor, args: argparse.Namespace) -> AutoencoderKL:
    """Train an autoencoder whose latents have mean 0 and deviation 1."""
    torch.manual_seed(args.seed)
    autoencoder = build_autoencoder().to(images.device)
    train_autoencoder(autoencoder, images, steps=args.vae_steps)
    equalize_latent_channels(autoencoder, images[:STATISTICS_IMAGES])
    set_latent_statistics(autoencoder, images[:STATISTICS_IMAGES])
    return autoencoder


def reconstruction_report(
    autoencoder: AutoencoderKL, images: torch.Tensor, labels: torch.Tensor, judge_path: str | None
) -> dict[str, float]:
    """Measure the error on test digits and, with a judge, its accuracy on them and on their reconstructions."""
    reconstructions = reconstruct(autoencoder, images)
    report = {"psnr": -10 * (reconstructions - images).square().mean().log10().item()}
    if judge_path is not None:
        judge = load_judge(judge_path).to(images.device)
        report["accuracy_real"] = agreement(judge, extract_features(judge, images), labels)
        report["accuracy_reconstructed"] = agreement(judge, extract_features(judge, reconstructions), labels)
    return report


def build_base(args: argparse.Namespace) -> dict[str, object]:
    start = time.perf_counter()
    train_images = load_split(args.data_dir, "train")[0].to(args.device)
    test_images, test_labels = (tensor.to(args.device) for tensor in load_split(args.data_dir, "test"))
    autoencoder = train_base_autoencoder(train_images, args)
    report = reconstruction_report(autoencoder, test_images, test_labels, args.judge)
    size = save_base(assemble(autoencoder.cpu(), args.seed), args.output_dir)
    return report | {"seconds": time.perf_counter() - start, "output_dir": args.output_dir, "bytes": size}


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default=DEFAULT_OUTPUT_DIR, help="Folder to save the pipeline to.")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder that prepare_data.py wrote.")
    parser.add_argument(
        "--vae_steps",
        type=int,
        default=1200,
        help="Number of optimizer steps for the autoencoder, with 64 digits per step.",
    )
    parser.add_argument(
        "--judge", default=None, help="File of a judge that measures accuracy on reconstructed digits."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of all initial weights and of training.")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="Device to train the autoencoder on."
    )
    args = parser.parse_args(input_args)
    if args.vae_steps < 2:
        parser.error(
            f"--vae_steps={args.vae_steps} is not valid: the schedule needs 2 steps or more. Use --vae_steps 1200."
        )
    return args


def main(args: argparse.Namespace) -> None:
    print(json.dumps(build_base(args), indent=2))


if __name__ == "__main__":
    main(parse_args())
