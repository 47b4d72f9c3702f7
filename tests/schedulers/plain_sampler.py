"""The sampler as in the papers, one line per formula, in float64, for comparison with the scheduler."""

import math

import torch


def plain_grid(count, gap_start, gap_end, warp, shift):
    a, b, c = warp
    last = count if gap_end == 0 else count - 1
    sigmas = []
    for i in range(count):
        tau = gap_start + (1 - gap_end - gap_start) * (i / last if last else 0)
        sigma = 1 - (1 - (1 - tau**a) ** b) ** c
        sigmas.append(shift * sigma / (1 + (shift - 1) * sigma))
    return [*sigmas, 0.0]


def plain_sde_ratio(sigma, sigma_next):
    return min(1.0, (math.sqrt(abs(sigma_next - sigma)) * math.sqrt(2 * sigma) / sigma_next) ** 2)


def plain_loop(model, x, sigmas, *, ratio, extrapolation, corrections, draw):
    """`model(x, evaluation)` is the velocity, `draw()` fresh noise; the first `corrections` steps are second order."""
    evaluation, x_hats, z_hats = 0, [], []
    for step, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        velocity = model(x, evaluation)
        evaluation += 1
        x_hat, z_hat = x - sigma * velocity, x + (1 - sigma) * velocity
        x_hats.append(x_hat)
        z_hats.append(z_hat)
        if step >= 2:
            x_hat = x_hat + extrapolation * (x_hat - x_hats[-2])
            z_hat = z_hat + extrapolation * (z_hat - z_hats[-2])
        if sigma_next == 0:
            return x_hat
        rho = plain_sde_ratio(sigma, sigma_next) if ratio == "sde" else ratio
        noise = draw() if rho > 0 else torch.zeros_like(x)
        arrived = (1 - sigma_next) * x_hat + sigma_next * (math.sqrt(1 - rho) * z_hat + math.sqrt(rho) * noise)
        if step < corrections:
            z_there = arrived + (1 - sigma_next) * model(arrived, evaluation)
            evaluation += 1
            keep = (1 - sigma_next) / (1 - sigma)
            arrived = keep * x + (sigma_next - keep * sigma) * (z_hat + z_there) / 2
        x = arrived
