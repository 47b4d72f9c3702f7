"""Build a `StableDiffusionPipeline` of digits: a diffusion model whose UNet predicts the noise.

The autoencoder and the text encoder come from the digits base. This script trains the UNet like a diffusion model, on the
squared error of the noise at uniform timesteps.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from base import DEFAULT_BASE_DIR, load_base
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from prepare_data import DEFAULT_DATA_DIR, digit_prompt, load_split
from text import HIDDEN_SIZE
from tqdm.auto import tqdm

DEFAULT_OUTPUT_DIR = "outputs/digits/epsilon_base"
MADE_NAME = "made.json"  # how the base was made
EMPTY_PROMPT = 10  # its index, after the ten digits


def build_unet(seed: int, channels: list[int]) -> UNet2DConditionModel:
    """Build a UNet for latents of 8x8x4, with one resolution per entry of `channels`."""
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
    """Build a scheduler with the noise schedule of Stable Diffusion 1.5."""
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
    """Build the pipeline with an untrained UNet."""
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
    """Encode images in [0, 1] to latents, and embed the ten prompts and the empty prompt."""
    latents = [pipeline.vae.encode(2 * batch - 1).latent_dist.mean for batch in images.split(500)]
    prompts = [*(digit_prompt(digit) for digit in range(10)), ""]
    embeddings, _ = pipeline.encode_prompt(prompts, images.device, 1, do_classifier_free_guidance=False)
    return torch.cat(latents) * pipeline.vae.config.scaling_factor, embeddings


class UNetTraining:
    """Trains a UNet on the squared error of the noise."""

    def __init__(self, pipeline: StableDiffusionPipeline, images: torch.Tensor, labels: torch.Tensor, args):
        self.latents, self.embeddings = encode(pipeline, images)
        self.unet, self.scheduler, self.labels, self.args = pipeline.unet.train(), pipeline.scheduler, labels, args
        self.device = images.device
        rate = torch.tensor(args.learning_rate, device=self.device) if args.cuda_graph else args.learning_rate
        options = {"betas": (0.9, 0.99), "weight_decay": 1e-2, "fused": True, "capturable": args.cuda_graph}
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=rate, **options)
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device)
        self.run = self.captured() if args.cuda_graph else self.step

    def step(self) -> torch.Tensor:
        size = (self.args.batch_size,)
        indices = torch.randint(len(self.latents), size, device=self.device)
        timesteps = torch.randint(self.scheduler.config.num_train_timesteps, size, device=self.device)
        is_empty = torch.rand(size, device=self.device) < self.args.empty_prompts
        noise = torch.randn(*size, *self.latents.shape[1:], device=self.device)
        noisy = self.scheduler.add_noise(self.latents[indices], noise, timesteps)
        condition = self.embeddings[self.labels[indices].masked_fill(is_empty, EMPTY_PROMPT)]
        loss = F.mse_loss(self.unet(noisy, timesteps, condition, return_dict=False)[0], noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def captured(self):
        """Capture a step as one CUDA graph. For such a small model, eager steps mostly wait for kernel launches."""
        self.set_rate(0.0)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.step()

        def replay() -> torch.Tensor:
            graph.replay()
            return loss

        return replay

    def set_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            if torch.is_tensor(group["lr"]):
                group["lr"].fill_(self.args.learning_rate * factor)
            else:
                group["lr"] = self.args.learning_rate * factor


def rate_factor(progress: float, warmup: float = 0.025) -> float:
    """Return the learning rate factor at `progress` in [0, 1]: a linear warm-up, then a cosine decay."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def train_unet(
    pipeline: StableDiffusionPipeline, images: torch.Tensor, labels: torch.Tensor, args
) -> dict[str, float]:
    """Train in place, and set the weights to their moving average.

    Returns:
        `steps`, the number of steps within the time limit, and `last_loss`.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    torch.manual_seed(args.seed)
    training, unet = UNetTraining(pipeline, images, labels, args), pipeline.unet
    average = EMAModel(unet.parameters(), decay=0.998, use_ema_warmup=True, power=0.75, foreach=True)
    progress, start, step = tqdm(total=args.steps, desc="UNet", mininterval=5), time.perf_counter(), 0
    while step < args.steps:
        done = step / args.steps
        if args.minutes:
            done = max(done, (time.perf_counter() - start) / (60 * args.minutes))
        if done >= 1:
            break
        training.set_rate(rate_factor(done))
        loss = training.run()
        average.step(unet.parameters())
        step += 1
        progress.update()
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}. Lower --learning_rate.")
    average.copy_to(unet.parameters())
    unet.eval()
    return {"steps": step, "last_loss": loss.item()}


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--digits_base", default=DEFAULT_BASE_DIR, help="Folder of the digits base.")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder that prepare_data.py wrote.")
    parser.add_argument("--output_dir", default=DEFAULT_OUTPUT_DIR, help="Folder to save the pipeline to.")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[96, 192], help="Number of channels of the UNet per resolution."
    )
    parser.add_argument("--steps", type=int, default=3000, help="Number of optimizer steps for the UNet.")
    parser.add_argument(
        "--minutes", type=float, help="Time limit in minutes. The learning rate reaches 0 at this time."
    )
    parser.add_argument(
        "--cuda_graph", action="store_true", help="Run each step as one CUDA graph, which is faster. Needs a GPU."
    )
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument(
        "--empty_prompts",
        type=float,
        default=0.1,
        help="Share of prompts to replace by the empty prompt, for guidance.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial weights and of training.")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="Device to train the UNet on."
    )
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    pipeline = assemble(args.digits_base, args.channels, args.seed).to(args.device)
    trained = train_unet(pipeline, *(tensor.to(args.device) for tensor in load_split(args.data_dir, "train")), args)
    pipeline.save_pretrained(args.output_dir)
    made = {"output_dir": args.output_dir, "parameters": pipeline.unet.num_parameters(), **trained}
    made |= {
        "cuda_graph": args.cuda_graph,
        "batch_size": args.batch_size,
        "seconds": round(time.perf_counter() - start, 1),
    }
    Path(args.output_dir, MADE_NAME).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))


if __name__ == "__main__":
    main(parse_args())
