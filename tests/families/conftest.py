import pytest
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as stock


@pytest.fixture
def small_references(monkeypatch):
    """Reference images of 64 x 64 pixels, where the stock pipeline has 1024 x 1024 and no option for it."""
    calculate_dimensions = stock.calculate_dimensions
    monkeypatch.setattr(stock, "calculate_dimensions", lambda area, ratio: calculate_dimensions(64 * 64, ratio))
