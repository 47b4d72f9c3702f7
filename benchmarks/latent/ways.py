"""The compared ways to distill the base, and how each is trained and sampled."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from .authors import AuthorsTraining
from .data import Encoded
from .drawing import Artist, load_distilled
from .mean_flow import MeanFlowTraining
from .settings import Settings
from .timed import Clock
from .training import distil, recommended_options

ANY_STYLE = "-any"
OURS, AUTHORS, MEAN_FLOW = "ours", "authors", "mean_flow"
WEIGHTS = "weights.safetensors"
MEASURED = ("their_", "trained_parameters", "micro_batches")
"""Starts of names in the settings of other repositories that are not options."""
Draw = Callable[[int], tuple[torch.Tensor, float]]


@dataclass(frozen=True)
class Way:
    """
    Attributes:
        label: name in tables and figures.
        code: whose code trains.
        train_type: "full" or "lora".
        share: share of `--minutes` that it trains.
        batch_factor: samples per step, as a multiple of the batch size of the settings.
        learning_rate: another learning rate than the usual one.
    """

    label: str
    code: str
    train_type: str = "full"
    share: float = 1.0
    batch_factor: float = 1.0
    learning_rate: float | None = None


WAYS = {
    "full": Way("TwinFlow, full weights", OURS),
    "lora": Way("TwinFlow, LoRA", OURS, "lora"),
    "authors": Way("authors' code, full weights", AUTHORS),
    "mean_flow": Way("MeanFlow, full weights", MEAN_FLOW),
    "full_half": Way("TwinFlow, full weights", OURS, share=0.5),
    "lora_half": Way("TwinFlow, LoRA", OURS, "lora", share=0.5),
    "full_double": Way("TwinFlow, full weights", OURS, share=2),
    "full_quarter": Way("TwinFlow, full weights", OURS, share=0.25),
    "lora_double": Way("TwinFlow, LoRA", OURS, "lora", share=2),
    "full_small_batch": Way("TwinFlow, full weights, small batch", OURS, batch_factor=0.25),
    "full_large_batch": Way("TwinFlow, full weights, large batch", OURS, batch_factor=4.0),
    "authors_lora": Way("authors' code, LoRA", AUTHORS, "lora"),
    "mean_flow_slow": Way("MeanFlow, full weights, their learning rate", MEAN_FLOW, learning_rate=1e-4),
}
"""In the order in which they are run. The first four are the comparison."""
COMPARED = ("full", "lora", "authors", "authors_lora", "mean_flow", "mean_flow_slow")
CURVES = {
    "full weights": ("full_quarter", "full_half", "full", "full_double"),
    "LoRA": ("lora_half", "lora", "lora_double"),
}


@dataclass(frozen=True)
class Place:
    """Where a way is trained.

    Attributes:
        base: folder of the base.
        output: folder for the result.
        authors, mean_flow: checkouts of the other repositories.
    """

    base: Path
    output: Path
    authors: Path | None
    mean_flow: Path | None
    device: torch.device


def train(way: Way, place: Place, samples: Encoded, settings: Settings, minutes: float) -> dict[str, Any]:
    """Train a way and save its result. Returns what it used and its settings."""
    batch_size = round(settings.batch_size * way.batch_factor)
    samples = samples.with_batches_of(batch_size)
    resident = torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    if way.code == OURS:
        config, options = recommended_options(settings, way.train_type, batch_size)
        usage, given = distil(place.base, samples, place.output, settings, way.train_type, minutes)
        lines = len(options) + 1  # and the train type
    else:
        training = other(way, place)
        # warm-up and decay of our recipe
        usage = training.train(samples, Clock(minutes, warm_up=25, decay_share=0.6))
        given = training.settings(samples)
        place.output.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in training.state().items()}, place.output / WEIGHTS)
        lines = len([name for name in given if not name.startswith(MEASURED)])
    if usage.peak_gib is not None:
        usage = replace(usage, peak_gib=usage.peak_gib - resident)
    return {
        "minutes": minutes,
        "batch_size": batch_size,
        "learning_rate": given["learning_rate"],
        "lines_of_configuration": lines,
        "usage": usage.to_dict(),
        "settings": given,
    }


def other(way: Way, place: Place) -> AuthorsTraining | MeanFlowTraining:
    """Load the base into the training of another repository."""
    checkout = place.authors if way.code == AUTHORS else place.mean_flow
    if checkout is None:
        raise ValueError(f"'{way.label}' needs a checkout: give --{way.code} DIR.")
    torch.manual_seed(0)
    if way.code == AUTHORS:
        return AuthorsTraining(checkout, place.base, way.train_type, place.device)
    rate = {} if way.learning_rate is None else {"learning_rate": way.learning_rate}
    return MeanFlowTraining(checkout, place.base, place.device, **rate)


def drawn_by(
    way: Way, place: Place, artist: Artist, autoencoder: AutoencoderTiny, in_any_style: bool = True
) -> dict[str, Draw]:
    """Load the result of a way. Returns functions from a number of steps to images, by the suffix of the row's name.

    Our models use the default style, and style "any" as well if `in_any_style` is set.
    """
    if way.code == OURS:
        pipeline = load_distilled(place.output, place.base, autoencoder, place.device, way.train_type)
        styles: dict[str, Draw] = {"": lambda steps: artist.with_pipeline(pipeline, steps)}
        if in_any_style:
            scheduler = pipeline.scheduler.with_style("any")
            styles[ANY_STYLE] = lambda steps: artist.with_pipeline(pipeline, steps, scheduler=scheduler)
        return styles
    training = other(way, place)
    training.load(load_file(place.output / WEIGHTS))
    sample = training.sample()
    return {"": lambda steps: artist.with_function(sample, steps)}
