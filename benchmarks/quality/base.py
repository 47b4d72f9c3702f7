"""Train the base: first the autoencoder, then the transformer with the training script and TwinFlow off."""

import json
import shutil
import time
from pathlib import Path

import torch
from build_base import folder_bytes
from diffusers import StableDiffusion3Pipeline

from .building import assemble, psnr, train_base_autoencoder
from .dataset import load_split
from .launching import plain_command, run_logged, training_command, training_progress
from .settings import Settings

SHARD_BYTES = "14MB"
RESERVE_SECONDS = 45
"""Seconds to start the script, encode the data and save."""


def build_untrained(data_dir: Path, output_dir: Path, settings: Settings, device: torch.device) -> dict[str, object]:
    """Build the pipeline with a trained autoencoder, and save it in float16. Returns the report."""
    start = time.perf_counter()
    train, test = load_split(data_dir, "train"), load_split(data_dir, "test")
    autoencoder = train_base_autoencoder(train.images.to(device), settings)
    report = {"psnr_held_out": psnr(autoencoder, test.images.to(device)), "seconds": time.perf_counter() - start}
    pipeline = assemble(autoencoder.cpu(), train, settings)
    report["transformer_parameters"] = sum(p.numel() for p in pipeline.transformer.parameters())
    pipeline.save_pretrained(output_dir)
    return report


def data_options(base: Path, data_dir: Path, settings: Settings) -> dict[str, object]:
    """Return the options of every run of the training script."""
    return {
        "pretrained_model_name_or_path": str(base),
        "dataset_name": str(data_dir),
        "caption_column": ["text", "group_text"],
        "resolution": settings.image_size,
        "max_sequence_length": 1,
        "cache_latents": True,
        "cache_text_embeddings": True,
        "train_batch_size": settings.batch_size,
        "seed": settings.seed,
    }


def base_options(
    untrained: Path,
    data_dir: Path,
    output_dir: Path,
    settings: Settings,
    *,
    minutes: float,
    processes: int,
    bf16: bool,
) -> dict[str, object]:
    return data_options(untrained, data_dir, settings) | {
        "output_dir": str(output_dir),
        "train_type": "full",
        "twinflow_enabled": False,
        "use_ema": True,
        "flow_matching_ema_decay": 0.999,
        "train_batch_size": settings.base_batch_size // processes,
        "max_train_steps": settings.base_train_steps,
        "max_train_minutes": round(minutes, 2),
        "checkpointing_steps": settings.base_train_steps + 1,
        "learning_rate": settings.base_learning_rate,
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": settings.base_warm_up_steps,
        "caption_dropout_probability": 0.1,
        "mixed_precision": "bf16" if bf16 else "no",
        "compile": bf16,
        "dataloader_num_workers": 4 if bf16 else 0,
    }


def train_transformer(
    untrained: Path, data_dir: Path, work_dir: Path, settings: Settings, *, minutes: float, gpus: list[str], bf16: bool
) -> dict[str, object]:
    """Train for as many steps as fit into the minutes, which include starting and saving."""
    processes = max(1, len(gpus))
    options = base_options(
        untrained, data_dir, work_dir / "trained", settings,
        minutes=max(0.0, minutes - RESERVE_SECONDS / 60), processes=processes, bf16=bf16,
    )  # fmt: skip
    command, log = training_command(options, processes=processes), work_dir / "base.log"
    seconds = run_logged(command, log, gpus=gpus or None)
    steps, training = training_progress(log)
    rate = steps / max(1, training)
    print(f"base: {steps} steps, {rate:.1f} a second", flush=True)
    return {"steps": steps, "steps_per_second": rate, "seconds": seconds, "command": plain_command(command)}


def finish(trained: Path, output_dir: Path) -> int:
    """Save the trained pipeline in float16, in small files. Returns its size in bytes."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(trained, text_encoder_3=None, tokenizer_3=None)
    pipeline.to(torch.float16)
    pipeline.save_pretrained(output_dir, max_shard_size=SHARD_BYTES)
    shutil.rmtree(trained)
    return folder_bytes(output_dir)


def train_base(
    data_dir: Path,
    output_dir: Path,
    work_dir: Path,
    settings: Settings,
    *,
    minutes: float,
    gpus: list[str],
    earlier: Path | None = None,
) -> dict[str, object]:
    """Build and train the base. Existing parts are used again.

    Args:
        earlier: a base that this function trained, whose transformer is trained further.
    """
    report_path = output_dir / "training.json"
    if report_path.is_file():
        return json.loads(report_path.read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    untrained = work_dir / "untrained"
    shutil.rmtree(work_dir / "trained", ignore_errors=True)
    if earlier is None:
        report = {"autoencoder": build_untrained(data_dir, untrained, settings, device)}
        print(f"autoencoder: {report['autoencoder']}", flush=True)
    else:
        report = {"continues": json.loads((earlier / report_path.name).read_text(encoding="utf-8"))}
        shutil.copytree(earlier, untrained)
    report["transformer"] = train_transformer(
        untrained, data_dir, work_dir, settings, minutes=minutes, gpus=gpus, bf16=device.type == "cuda"
    )
    report["bytes"] = finish(work_dir / "trained", output_dir)
    shutil.rmtree(untrained)
    report_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
