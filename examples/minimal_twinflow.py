#!/usr/bin/env python
"""Train TwinFlow in one explicit loop, without `Trainer`. Copy this file and change it.

    python examples/minimal_twinflow.py --output_dir outputs/minimal

This distills `examples/digits/base`, a model of handwritten digits, into a LoRA that generates images in one step, and
generates the ten digits with it. It runs in about a minute on a CPU. Use `accelerate launch` to run it on several GPUs.

Notation: data x, noise z, time t from 0 (data) to 1 (noise).

    x_t = t z + (1 - t) x          a point of the linear flow
    F(x_t, t, r, s)                the network's velocity; its data is x_hat = x_t - t F
    r                              the target time to jump to: r = t is the velocity field, r = 0 jumps to the data
    s                              the sign: +1 on the real trajectory, -1 on the trajectory of the model's own fakes
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import StableDiffusion3Pipeline
from diffusers.utils import make_image_grid
from peft import LoraConfig

from diffusers_twinflow import (
    TwinFlowConfig,
    TwinFlowPipeline,
    TwinFlowRepositoryConfig,
    TwinFlowScheduler,
    enable_twinflow,
    save_twinflow_lora,
)
from diffusers_twinflow.families import family_of
from diffusers_twinflow.methods import LossOutput, Method, Networks, TwinFlow

EXAMPLES = Path(__file__).resolve().parent
sys.path.append(str(EXAMPLES / "digits"))

from prepare_data import digit_prompt, load_digits  # noqa: E402

PROMPTS = [digit_prompt(digit) for digit in range(10)]
CONFIG = TwinFlowConfig(
    twinflow_enabled=True,
    twinflow_target_step_count=1,
    twinflow_adversarial_enabled=True,
    twinflow_rectify_weight=2.0,
    twinflow_enhanced_ratio=0.2,
)


def encode(pipeline, family, count: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Encode `count` digits, the ten prompts and the empty prompt. Returns latents, labels and conditions."""
    images, labels = (torch.from_numpy(array)[:: 5000 // count].to(pipeline.device) for array in load_digits())
    pixels = images.permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = torch.cat([family.encode_images(pipeline, batch) for batch in pixels.split(250)])
        conditions = family.encode_prompts(pipeline, [*PROMPTS, ""], max_sequence_length=1)
    return latents, labels, conditions


def main(args: argparse.Namespace, method: Method) -> None:
    accelerator = Accelerator()
    set_seed(args.seed)
    device, generator = accelerator.device, torch.Generator().manual_seed(args.seed + accelerator.process_index)

    pipeline = StableDiffusion3Pipeline.from_pretrained(args.base, text_encoder_3=None, tokenizer_3=None).to(device)
    family, transformer = family_of(pipeline), pipeline.transformer
    latents, labels, conditions = encode(pipeline, family, args.images)

    # The student: a LoRA on the frozen base, and embeddings of r and s, which change nothing until they are trained.
    transformer.requires_grad_(False)
    enable_twinflow(transformer)
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=family.lora_targets(transformer))
    transformer.add_adapter(lora)
    transformer.time_conditioning.requires_grad_(True)
    method.add_teacher(transformer, lora)  # the teacher is a second adapter on the same base
    transformer.train()

    trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(transformer, torch.optim.AdamW(trainable, lr=args.learning_rate))
    teacher = method.build_teacher(transformer, family.velocity)
    networks = Networks(
        student=family.velocity(model),
        student_without_grad=family.velocity(transformer),
        teacher=teacher,
        unconditional={name: tensor[10:] for name, tensor in conditions.items()},
    )

    for step in range(args.steps):
        # The teacher is an average of the student: w_teacher <- d w_teacher + (1 - d) w_student.
        teacher.update()

        # This process's samples: their positions in the run, data x and prompts.
        first = (step * accelerator.num_processes + accelerator.process_index) * args.batch_size
        positions = range(first, first + args.batch_size)
        chosen = torch.randint(len(latents), (args.batch_size,), generator=generator).to(device)
        condition = {name: tensor[labels[chosen]] for name, tensor in conditions.items()}

        # Draw times, branches and noise. They depend only on the seed and the sample's position. Each sample of the
        # batch belongs to one branch:
        #   one_step     t = 1, r = 0       noise to data in one jump
        #   any_step     0 <= r <= t        jumps of every length
        #   multi_step   r just below t     nearly the base's velocity field
        #   adversarial  r = t, s = -1      x is a fake, x_hat of F(z', 1, 0, +1)
        draw = method.draw(positions, latents.shape[1:], seed=args.seed, device=device)

        # The loss compares F with a target that has no gradient.
        #   guidance     v = z - x + w (F_teacher(prompt) - F_teacher(empty prompt))
        #   jumps        F (t - r) must equal delta v, a short step, plus the teacher's jumps I from t - delta to r:
        #                target = F - clamp((F (t - r) - I) / delta - v)
        #   adversarial  target = v
        #   rectify      on x_hat of one_step, noised again: target = F - clamp(F(., s = -1) - F(., s = +1))
        output = method.loss(latents[chosen], condition, draw, networks)

        accelerator.backward(output.loss)
        accelerator.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {step + 1} of {args.steps}: {losses_of(output, method)}")

    if accelerator.is_main_process:
        save(args, method, pipeline, teacher)
        draw_digits(args)


def losses_of(output: LossOutput, method: Method) -> str:
    """Format the mean loss of each branch that has samples in the batch."""
    per_branch = {name: output.per_sample[output.branches == i] for i, name in enumerate(method.branch_names)}
    return ", ".join(f"{name} {losses.mean():.2f}" for name, losses in per_branch.items() if len(losses))


def save(args: argparse.Namespace, method: Method, pipeline, teacher) -> None:
    """Save a TwinFlow repository with the teacher's weights, which are smoother than the student's."""
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    config = TwinFlowRepositoryConfig(
        train_type="lora",
        family=family_of(pipeline).name,
        base_model=os.path.relpath(args.base, args.output_dir),
        num_inference_steps=method.config.twinflow_target_step_count,
        max_sequence_length=1,
        options=method.options(),
        trained={"steps": args.steps, "batch_size": args.batch_size, "learning_rate": args.learning_rate},
    )
    scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    with teacher.activated():
        save_twinflow_lora(args.output_dir, pipeline.transformer.eval(), config, scheduler, **teacher.saved_names)


def draw_digits(args: argparse.Namespace) -> None:
    """Generate the ten digits from the saved repository, as any user would."""
    images = TwinFlowPipeline.from_pretrained(args.output_dir)(PROMPTS, generator=torch.manual_seed(args.seed)).images
    make_image_grid(images, rows=1, cols=10).save(Path(args.output_dir, "digits.png"))
    print(f"{args.output_dir}/digits.png")


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=str(EXAMPLES / "digits" / "base"), help="Folder of the digits base.")
    parser.add_argument("--output_dir", default="outputs/minimal", help="Folder to write the LoRA and its images to.")
    parser.add_argument("--steps", type=int, default=30, help="Number of optimizer steps.")
    parser.add_argument("--batch_size", type=int, default=16, help="Number of samples per step and process.")
    parser.add_argument("--images", type=int, default=500, help="Number of digits to train on, at most 5000.")
    parser.add_argument("--rank", type=int, default=32, help="Rank of the LoRA.")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="Learning rate of AdamW.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the run.")
    return parser.parse_args(input_args)


if __name__ == "__main__":
    main(parse_args(), TwinFlow(CONFIG))
