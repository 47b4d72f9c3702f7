import pytest

from tests.smaller_pictures import resize_to


@pytest.fixture
def small_references(monkeypatch):
    """Reference images of 64 x 64 pixels, where the stock pipelines have 1024 x 1024."""
    resize_to(64 * 64, ("qwenimage.pipeline_qwenimage_edit", "qwenimage.pipeline_qwenimage_edit_plus"), monkeypatch)
