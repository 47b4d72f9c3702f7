"""Generate digits with a TwinFlow LoRA, by default in one step.

python examples/digits/draw.py --model outputs/demo/lora --prompts "a handwritten seven" --output seven.png
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid, pt_to_pil
from safetensors.torch import save_file

from diffusers_twinflow import TwinFlowPipeline


def draw_prompts(
    pipeline: DiffusionPipeline, prompts: list[str], seed: int, num_inference_steps: int | None = None
) -> torch.Tensor:
    """Generate one image per prompt. Returns shape `[N, 3, H, W]` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return pipeline(
        prompts, num_inference_steps=num_inference_steps, generator=generator, output_type="pt"
    ).images.float()


def save_images(images: torch.Tensor, path: str | Path) -> None:
    """Save the images side by side as one image, or their exact values if the name ends in .safetensors."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(path).suffix == ".safetensors":
        save_file({"images": images.contiguous()}, str(path))
    else:
        make_image_grid(pt_to_pil(2 * images - 1), rows=1, cols=len(images)).save(path)


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="outputs/demo/lora", help="Output folder of train_twinflow.py.")
    parser.add_argument("--prompts", nargs="+", default=["a handwritten seven"], help="Prompts, one image each.")
    parser.add_argument(
        "--num_inference_steps",
        type=int,
        default=None,
        help="Number of steps. Default: the number it was distilled for.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial noise.")
    parser.add_argument(
        "--output",
        default="outputs/demo/drawn.png",
        help="Output file: .png for an image, .safetensors for exact values.",
    )
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    pipeline = TwinFlowPipeline.from_pretrained(args.model)
    save_images(draw_prompts(pipeline, args.prompts, args.seed, args.num_inference_steps), args.output)
    print(args.output)


if __name__ == "__main__":
    main(parse_args())
