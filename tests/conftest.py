import gc
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("ci", deadline=None, max_examples=50)
settings.load_profile("ci")
torch.set_num_threads(1)

import tiny  # noqa: E402

gc.freeze()  # what the libraries made of themselves is not looked through again and again: a tenth of the whole time
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    """A tiny Stable Diffusion 3 pipeline on disk."""
    directory = tmp_path_factory.mktemp("base")
    tiny.sd3_pipeline().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory):
    """A folder of eight captioned images."""
    directory = tmp_path_factory.mktemp("data") / "images"
    tiny.image_folder(directory)
    return directory
