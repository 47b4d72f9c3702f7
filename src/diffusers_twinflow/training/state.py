"""Save and load only the trained weights of a model in checkpoints, not the frozen base."""

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from ..sharding import copy_whole, whole

FILE_NAME = "trained_weights.safetensors"


class TrainedWeights:
    """Saves and loads a transformer's trainable parameters with accelerate's checkpoints."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.parameters = {name: p for name, p in transformer.named_parameters() if p.requires_grad}

    def register(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def _save(self, models: list, weights: list, output_dir: str) -> None:
        weights.clear()
        is_main = self.accelerator.is_main_process
        tensors = {}
        for name, parameter in self.parameters.items():
            tensor = whole(parameter)
            if is_main:
                tensors[name] = tensor.cpu().contiguous()
        if is_main:
            save_file(tensors, Path(output_dir) / FILE_NAME)

    def _load(self, models: list, input_dir: str) -> None:
        models.clear()
        tensors = load_file(Path(input_dir) / FILE_NAME)
        for name, parameter in self.parameters.items():
            copy_whole(parameter, tensors[name])
