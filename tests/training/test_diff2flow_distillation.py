"""The method trains a network that predicts the noise to generate in one step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_twinflow import TwinFlowConfig, TwinFlowScheduler
from diffusers_twinflow.diff2flow import Diff2Flow
from diffusers_twinflow.methods import Networks, TwinFlow

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
BRIDGE = Diff2Flow.from_config(SCHEDULE)
OPTIONS = {"twinflow_enhanced_ratio": 0.0, "twinflow_rectify_weight": 2.0, "twinflow_adversarial_enabled": True}


class Network(nn.Module):
    """Predicts the noise in points of the plane, with a target time and a sign that change nothing at first."""

    def __init__(self, width=64):
        super().__init__()
        self.point, self.time, self.sign = nn.Linear(2, width), nn.Linear(16, width), nn.Embedding(2, width, 0)
        self.target = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width, bias=False))
        self.layers = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(width, width)) for _ in range(4))
        self.output = nn.Linear(width, 2)
        for new in (self.target[-1], self.sign):
            nn.init.zeros_(new.weight)

    def forward(self, x, timestep, target_timestep=None, sign=None):
        hidden = self.point(x) + self.time(frequencies(timestep))
        if target_timestep is not None:
            gap = (timestep - target_timestep).unsqueeze(-1) / 1000
            hidden = hidden + gap * self.target(frequencies(target_timestep))
        if sign is not None:
            hidden = hidden + self.sign((sign < 0).long())
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.output(hidden)


def frequencies(timestep):
    angles = timestep.unsqueeze(-1) / 1000 * 1.5 * 2 ** torch.arange(8)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def velocity_of(network):
    def velocity(x_t, t, r, sign, condition):
        timestep, target = (BRIDGE.schedule.timestep_of(time) for time in (t, r))
        return BRIDGE.velocity(network(BRIDGE.network_input(x_t, t), timestep, target, sign), x_t, t)

    return velocity


def data(count):
    """Three blobs on a circle."""
    angle = torch.randint(3, (count,)) * (2 * torch.pi / 3)
    return 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(count, 2)


def train_base(network, steps):
    """As diffusion models are trained."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        x, z, timestep = data(256), torch.randn(256, 2), torch.randint(1000, (256,))
        alpha_bar = BRIDGE.schedule.alphas_cumprod[timestep].float().unsqueeze(-1)
        noisy = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * z
        F.mse_loss(network(noisy, timestep.float()), z).backward()
        optimizer.step()
        optimizer.zero_grad()


def distil(network, steps):
    """The teacher after `steps` of TwinFlow."""
    config = TwinFlowConfig(twinflow_enabled=True, diff2flow_enabled=True, twinflow_allow_diff2flow=True, **OPTIONS)
    method = TwinFlow(config)
    student, teacher = velocity_of(network), method.build_teacher(network, velocity_of)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, betas=(0.9, 0.99))
    for step in range(steps):
        teacher.update()
        draw = method.draw(range(step * 64, step * 64 + 64), (2,), seed=0)
        method.loss(data(64), {}, draw, Networks(student, student, teacher)).loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return teacher.transformer


@torch.no_grad()
def one_step(network):
    """Points drawn as a pipeline draws them."""
    scheduler = TwinFlowScheduler(**SCHEDULE)
    scheduler.set_timesteps(1)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    timestep = scheduler.timesteps[0]
    network_input, times = scheduler.scale_model_input(noise, timestep), timestep.expand(4000)
    output = network(network_input, times, scheduler.target_timesteps[0].expand(4000))
    return scheduler.step(output, timestep, noise).prev_sample


def distance(samples, others):
    """Mean distance of the sorted projections on sixteen directions."""
    angles = torch.arange(16) * (torch.pi / 16)
    directions = torch.stack([angles.cos(), angles.sin()])
    first, second = ((points @ directions).sort(0).values for points in (samples, others))
    return (first - second).abs().mean().item()


@pytest.mark.slow
def test_a_network_that_predicts_the_noise_is_distilled_into_one_step():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, real = Network(), data(4000)
        train_base(network, 600)
        before = distance(one_step(network), real)
        after = distance(one_step(distil(network, 250)), real)
    assert after < before / 2, (before, after)
