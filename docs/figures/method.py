"""Draws docs/images/method.png: the two trajectories of a one-dimensional toy, and where each branch trains.

The paths follow the exact velocity of the flow between a normal distribution and a mixture of normals; the points on
the right are drawn by the code that draws them in training.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.methods.twinflow.trajectory import COLOURS, trajectory_rows

PICTURE = Path(__file__).parents[1] / "images" / "method.png"
DATA = ((-1.8, 0.15), (1.4, 0.25))
FAKES = ((-1.2, 0.45), (0.7, 0.5))
"""Mean and deviation of two equally likely normals: what the data are, and what an unfinished student makes."""
SAMPLES = 400
STEPS = 400


def mixture_velocity(x_t: np.ndarray, t: float, mixture) -> np.ndarray:
    """The expected `noise - data` at points of time `t` in (0, 1], for data of the mixture."""
    weights, velocities = [], []
    for mean, deviation in mixture:
        variance = t**2 + ((1 - t) * deviation) ** 2
        centred = x_t - (1 - t) * mean
        weights.append(np.exp(-(centred**2) / (2 * variance)) / np.sqrt(variance))
        velocities.append(centred * (t - (1 - t) * deviation**2) / variance - mean)
    return np.average(velocities, axis=0, weights=weights)


def paths(noise: np.ndarray, mixture) -> tuple[np.ndarray, np.ndarray]:
    """Times from 1 to 0, and where each noise is at each of them, shape [times, noises]."""
    times = np.linspace(1, 0, STEPS + 1)
    points = [noise]
    for t, after in zip(times, times[1:]):
        points.append(points[-1] + (after - t) * mixture_velocity(points[-1], t, mixture))
    return times, np.stack(points)


def draw_trajectories(axes) -> None:
    noise = np.linspace(-2.2, 2.2, 23)
    for sign, mixture, colour in ((1, DATA, "tab:blue"), (-1, FAKES, "tab:orange")):
        times, points = paths(noise, mixture)
        axes.plot(sign * (times - 1), points, color=colour, linewidth=0.8, alpha=0.7)
    axes.plot((0, 0), (-2.4, 2.5), color="black", linewidth=0.8)
    axes.text(-0.5, 2.75, "real, sign +1", color="tab:blue", ha="center")
    axes.text(0.5, 2.75, "twin, sign -1", color="tab:orange", ha="center")
    for x, text in ((-1, "data, t = 0"), (0, "noise, t = 1"), (1, "fakes, t = 0")):
        axes.text(x, -2.85, text, ha="center", fontsize="small")
    axes.set_title("two trajectories from one noise", fontsize="medium")
    axes.set(xlim=(-1.15, 1.15), ylim=(-3, 3.2))
    axes.set_axis_off()


def draw_branches(axes) -> None:
    config = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_few_step_share=1.0)
    rows = trajectory_rows(TwinFlow(config), range(SAMPLES), seed=0)
    for branch in ("adversarial", "any_step", "multi_step", "few_step", "one_step"):
        times, targets, signs = zip(*(row[:3] for row in rows if row[3] == branch))
        marker, size = ("x", 26) if signs[0] < 0 else ("o", 90 if branch == "one_step" else 12)
        label = f"{branch}, sign {int(signs[0]):+d}"
        axes.scatter(times, targets, size, [COLOURS[branch]], marker=marker, label=label, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="time t (1 = noise)", ylabel="target time r", aspect="equal")
    axes.set_title("what each branch trains", fontsize="medium")
    axes.legend(loc="upper left", fontsize="small")


def draw(path: Path) -> None:
    figure = Figure(figsize=(8.5, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_trajectories(left)
    draw_branches(right)
    figure.savefig(path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE, help="PNG file to write.")
    draw(parser.parse_args().output)
