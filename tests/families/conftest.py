import pytest
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus


@pytest.fixture
def small_references(monkeypatch):
    """Reference images of 64 x 64 pixels, where the stock pipelines have 1024 x 1024 and no option for it."""
    for stock in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        calculate = stock.calculate_dimensions
        monkeypatch.setattr(
            stock, "calculate_dimensions", lambda area, ratio, calculate=calculate: calculate(64 * 64, ratio)
        )
