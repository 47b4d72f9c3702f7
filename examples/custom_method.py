#!/usr/bin/env python
"""Add your own branch and loss to TwinFlow, and train with the loop of `minimal_twinflow.py`.

    python examples/custom_method.py --output_dir outputs/custom

The branch trains at the times that a four-step sampler visits. The loss is TwinFlow's loss plus a penalty on the mean of
the velocity's error. You can also pass the method to the trainer: `Trainer(model, arguments, MyTwinFlow(...))`.
"""

import numpy as np

from diffusers_twinflow import TwinFlowScheduler
from diffusers_twinflow.flow import interpolate
from diffusers_twinflow.methods import BRANCHES, Branch, LossOutput, Networks, TwinFlow
from minimal_twinflow import CONFIG, main, parse_args


class SamplerSteps(Branch):
    """Trains jumps from the times of a few-step sampler to the data.

    Everything else has a default: the sign, guidance, the teacher's jumps and the RCGM target.
    """

    name = "sampler_steps"

    def __init__(self, share: float, num_inference_steps: int):
        super().__init__(share)
        scheduler = TwinFlowScheduler()
        scheduler.set_timesteps(num_inference_steps)
        self.grid = scheduler.sigmas[:-1].numpy()

    def times(self, t, u, config):
        """Return times t and target times r. `u` is uniform in [0, 1) and chooses a time of the grid."""
        return self.grid[(u * len(self.grid)).astype(int)], np.zeros_like(u)


class MyTwinFlow(TwinFlow):
    """TwinFlow with an additional loss. A method without TwinFlow implements `Method` in the same way."""

    part_names = (*TwinFlow.part_names, "mean_error")

    def loss(self, latents, condition, draw, networks: Networks) -> LossOutput:
        output = super().loss(latents, condition, draw, networks)
        x_t, v = interpolate(latents, draw.noise, draw.t), draw.noise - latents
        prediction = networks.student(x_t, draw.t, draw.t, draw.sign.abs(), condition)  # r = t: the velocity field
        error = (prediction - v).flatten(2).mean(2).square().mean(1)
        output.parts["mean_error"] = error.detach()  # logged as loss/mean_error
        output.loss = output.loss + 0.1 * error.mean()
        return output


if __name__ == "__main__":
    branches = [*BRANCHES, SamplerSteps(share=1.0, num_inference_steps=4)]
    main(parse_args(), MyTwinFlow(CONFIG, branches=branches))
