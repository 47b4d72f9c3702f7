#!/usr/bin/env python
"""Write a training method of your own, with its own random numbers and loss: shortcut models (arXiv:2410.12557).

    python examples/shortcut_method.py --output_dir outputs/shortcut

Most samples train the velocity. The others train jumps: one jump must equal two jumps of half its length, which the EMA
teacher makes. To train with all options of the command, replace the last line by

    diffusers_twinflow.cli.train.main(build_method=lambda options: Shortcut(options.twinflow))
"""

from dataclasses import dataclass

import numpy as np
import torch

from diffusers_twinflow.flow import expand_time, interpolate
from diffusers_twinflow.methods import LossOutput, Networks, TwinFlow
from diffusers_twinflow.methods.randomness import BLOCK, Purpose, draw_noise, draw_numbers
from minimal_twinflow import CONFIG, main, parse_args


@dataclass
class ShortcutDraw:
    """Times t, target times r and noise of B samples, and which samples train a jump."""

    t: torch.Tensor
    r: torch.Tensor
    noise: torch.Tensor
    is_jump: torch.Tensor


class Shortcut(TwinFlow):
    """The shortcut method. It inherits the time conditioning and the EMA teacher of TwinFlow, and no loss."""

    name = "shortcut"
    part_names = ()  # no losses besides those of the branches
    needs_unconditional = False  # no guidance

    def __init__(self, config):
        super().__init__(config)
        self.branch_names = ("velocity", "jump")  # logged as loss/velocity and loss/jump
        self.branch_cycle = ("velocity", "velocity", "velocity", "jump")  # of the samples at positions 0, 1, ...

    def draw(self, positions, latent_shape, *, seed, device="cpu", passes_of=None) -> ShortcutDraw:
        """Draw by position in the run, so that resumed runs and runs on several processes draw the same numbers."""
        numbers = draw_numbers(positions, seed, lambda block: np.random.default_rng(block).random((BLOCK, 2)))
        is_jump = np.asarray(positions) % len(self.branch_cycle) == self.branch_cycle.index("jump")
        t = numbers[:, 0].astype(np.float32)
        r = np.where(is_jump, t * numbers[:, 1], t).astype(np.float32)
        noise = draw_noise(positions, latent_shape, seed=seed, purpose=Purpose.NOISE, device=device)
        return ShortcutDraw(
            *(torch.from_numpy(x).to(device) for x in (t, r)), noise, torch.from_numpy(is_jump).to(device)
        )

    def loss(self, latents, condition, draw, networks: Networks) -> LossOutput:
        t, r, middle, sign = draw.t, draw.r, (draw.t + draw.r) / 2, torch.ones_like(draw.t)
        x_t = interpolate(latents, draw.noise, t)
        with networks.teacher.activated() as teacher:
            first = teacher(x_t, t, middle, sign, condition)
            second = teacher(x_t + expand_time(middle - t, x_t) * first, middle, r, sign, condition)
        target = torch.where(expand_time(draw.is_jump, x_t), (first + second) / 2, draw.noise - latents)
        prediction = networks.student(x_t, t, r, sign, condition).float()
        per_sample = (prediction - target).square().flatten(1).mean(1)
        return LossOutput(per_sample.mean(), per_sample.detach(), branches=draw.is_jump.long())


if __name__ == "__main__":
    main(parse_args(), Shortcut(CONFIG))
