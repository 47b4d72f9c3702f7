"""Makes a `StableDiffusionPipeline` that draws the digits: a diffusion model, whose UNet predicts the noise.

The autoencoder and the text encoder are those of the digits base. The UNet is trained here as diffusion models are, on
the squared error of the noise at uniform timesteps.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from base import DEFAULT_BASE_DIR, load_base
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from prepare_data import DEFAULT_DATA_DIR, digit_prompt, load_split
from text import HIDDEN_SIZE
from tqdm.auto import tqdm

DEFAULT_OUTPUT_DIR = "outputs/digits/epsilon_base"
EMPTY_PROMPT = 10  # comes after the ten digits


def build_unet(seed: int, channels: list[int]) -> UNet2DConditionModel:
    """A UNet on latents of 8x8x4 with a resolution for each number of channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * len(channels),
            up_block_types=("CrossAttnUpBlock2D",) * len(channels),
            cross_attention_dim=HIDDEN_SIZE,
            attention_head_dim=4,
            norm_num_groups=16,
        )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def assemble(digits_base: str, channels: list[int], seed: int) -> StableDiffusionPipeline:
    """The pipeline with an untrained UNet."""
    digits = load_base(digits_base)
    digits.vae.register_to_config(shift_factor=None)
    return StableDiffusionPipeline(
        vae=digits.vae,
        text_encoder=digits.text_encoder.text_model,
        tokenizer=digits.tokenizer,
        unet=build_unet(seed, channels),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def encode(pipeline: StableDiffusionPipeline, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of images in [0, 1], and the embeddings of the ten prompts and of the empty one."""
    latents = [pipeline.vae.encode(2 * batch - 1).latent_dist.mean for batch in images.split(500)]
    prompts = [*(digit_prompt(digit) for digit in range(10)), ""]
    embeddings, _ = pipeline.encode_prompt(prompts, images.device, 1, do_classifier_free_guidance=False)
    return torch.cat(latents) * pipeline.vae.config.scaling_factor, embeddings


def train_unet(pipeline: StableDiffusionPipeline, images: torch.Tensor, labels: torch.Tensor, args) -> None:
    """Train in place, and leave the moving average of the weights."""
    latents, embeddings = encode(pipeline, images)
    unet, scheduler = pipeline.unet.train(), pipeline.scheduler
    options = {"lr": args.learning_rate, "betas": (0.9, 0.99), "weight_decay": 1e-2, "fused": True}
    optimizer = torch.optim.AdamW(unet.parameters(), **options)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps // 40, args.steps)
    average = EMAModel(unet.parameters(), decay=0.998, use_ema_warmup=True, power=0.75, foreach=True)
    torch.manual_seed(args.seed)
    for _ in tqdm(range(args.steps), desc="UNet"):
        indices = torch.randint(len(latents), (args.batch_size,), device=images.device)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (args.batch_size,), device=images.device)
        is_empty = torch.rand(args.batch_size, device=images.device) < args.empty_prompts
        noise = torch.randn(args.batch_size, *latents.shape[1:], device=images.device)
        noisy = scheduler.add_noise(latents[indices], noise, timesteps)
        condition = embeddings[labels[indices].masked_fill(is_empty, EMPTY_PROMPT)]
        loss = F.mse_loss(unet(noisy, timesteps, condition, return_dict=False)[0], noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.step(unet.parameters())
    average.copy_to(unet.parameters())
    unet.eval()


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits_base", default=DEFAULT_BASE_DIR, help="Folder of the digits base.")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder that prepare_data.py wrote.")
    parser.add_argument("--output_dir", default=DEFAULT_OUTPUT_DIR, help="Folder the pipeline is saved to.")
    parser.add_argument("--channels", type=int, nargs="+", default=[96, 192], help="Of the UNet, by resolution.")
    parser.add_argument("--steps", type=int, default=3000, help="Optimizer steps of the UNet.")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--empty_prompts", type=float, default=0.1, help="Share of empty prompts, for guidance.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial weights and of the training.")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="Device the UNet trains on."
    )
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    pipeline = assemble(args.digits_base, args.channels, args.seed).to(args.device)
    train_unet(pipeline, *(tensor.to(args.device) for tensor in load_split(args.data_dir, "train")), args)
    pipeline.save_pretrained(args.output_dir)
    seconds, parameters = time.perf_counter() - start, pipeline.unet.num_parameters()
    print(json.dumps({"output_dir": args.output_dir, "parameters": parameters, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main(parse_args())
