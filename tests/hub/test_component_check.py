"""A component that passed its check is built again only if its files or the arguments changed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from diffusers import SD3Transformer2DModel, WanTransformer3DModel
from torch.nn.modules.module import register_module_module_registration_hook

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.hub.component_check import check_component
from tests import tiny
from tests.families import tiny_videos

WEIGHTS = "diffusion_pytorch_model.safetensors"


@contextmanager
def modules_built() -> Iterator[list[str]]:
    names: list[str] = []
    hook = register_module_module_registration_hook(lambda module, name, child: names.append(name))
    yield names
    hook.remove()


@pytest.fixture
def folder(tmp_path):
    tiny.sd3_transformer().save_pretrained(tmp_path)
    return tmp_path


def test_a_component_is_built_once(folder):
    for is_built in (True, False):
        with modules_built() as names:
            check_component(folder, SD3Transformer2DModel)
        assert bool(names) is is_built
    with modules_built() as names:
        check_component(folder, SD3Transformer2DModel, is_trained=True)
    assert names


@pytest.mark.parametrize("keeps_time", [False, True])
def test_changed_weights_are_checked_again(folder, keeps_time):
    check_component(folder, SD3Transformer2DModel)
    path = folder / WEIGHTS
    times, content = path.stat(), path.read_bytes()
    assert content.count(b'"context_embedder.bias"') == 1
    path.write_bytes(content.replace(b'"context_embedder.bias"', b'"context_embedder.gain"'))
    assert path.stat().st_size == times.st_size
    if keeps_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(TwinFlowConfigError, match="missing keys such as 'context_embedder.bias'"):
        check_component(folder, SD3Transformer2DModel)
    with pytest.raises(TwinFlowConfigError, match="missing keys"):
        check_component(folder, SD3Transformer2DModel)


def test_a_file_that_appears_is_checked(folder):
    check_component(folder, SD3Transformer2DModel)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(TwinFlowConfigError, match="adapter_config"):
        check_component(folder, SD3Transformer2DModel)


def test_a_check_leaves_the_random_state(tmp_path):
    """A Wan transformer draws numbers while it is built."""
    tiny_videos.wan().transformer.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    check_component(tmp_path, WanTransformer3DModel)
    assert torch.equal(torch.get_rng_state(), before)
