"""Tiny checkpoints in the layouts that the TwinFlow authors publish."""

import json
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from diffusers_twinflow.models.second_embedder import SECOND_EMBEDDERS

WEIGHTS = "diffusion_pytorch_model.safetensors"
QWEN_FOLDER = "TwinFlow-Qwen-Image-v1.0/TwinFlow-Qwen-Image"
Z_IMAGE_FOLDER = "TwinFlow-Z-Image-Turbo-exp"


def add_second_embedder(folder: Path, transformer: torch.nn.Module, *, shards: int = 1, wrapper: bool = True) -> None:
    """Turn a transformer that was saved to `folder` into one of the authors', in one file or in several with an index."""
    rule = SECOND_EMBEDDERS[type(transformer).__name__]
    generator = torch.Generator().manual_seed(3)
    embedder = deepcopy(transformer.get_submodule(rule.path))
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in embedder.state_dict().items():
        tensors[f"{rule.checkpoint_name}.{name}"] = torch.randn(tensor.shape, generator=generator) / 2
    (folder / WEIGHTS).unlink()
    if shards == 1:
        save_file(tensors, folder / WEIGHTS)
    else:
        names = [f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        weight_map = {key: names[number % shards] for number, key in enumerate(sorted(tensors))}
        for name in names:
            save_file({key: tensors[key] for key in tensors if weight_map[key] == name}, folder / name)
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if wrapper:
        change_json(folder / "config.json", _class_name=f"{type(transformer).__name__}Wrapper")


def write_published(directory: Path, pipeline, **options) -> None:
    """Save a stock pipeline with the transformer of the authors."""
    pipeline.save_pretrained(directory)
    add_second_embedder(directory / "transformer", pipeline.transformer, **options)


def write_published_transformer(directory: Path, transformer: torch.nn.Module, **options) -> None:
    """Save the authors' transformer without the rest of its pipeline."""
    transformer.save_pretrained(directory)
    add_second_embedder(directory, transformer, **options)


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
