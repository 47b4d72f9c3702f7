import pytest
from diffusers.modular_pipelines.qwenimage import encoders
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

from tests.schedulers.stock_pipelines.batches import RESIZES
from tests.smaller_pictures import resize_to


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """Have the pipelines of Qwen-Image resize pictures to 32 x 32 pixels, and not to a million."""
    resize_to(32 * 32, RESIZES, monkeypatch)
    monkeypatch.setattr(encoders, "calculate_dimensions", lambda _, ratio: calculate_dimensions(32 * 32, ratio))
