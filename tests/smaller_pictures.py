"""Use small images in stock pipelines that resize images to a fixed area."""

import importlib

import pytest


def resize_to(area: int, pipelines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the modules of `diffusers.pipelines` resize every picture to so many pixels, for one test."""
    for name in pipelines:
        stock = importlib.import_module(f"diffusers.pipelines.{name}")
        calculate = stock.calculate_dimensions
        monkeypatch.setattr(
            stock, "calculate_dimensions", lambda _, ratio, calculate=calculate: calculate(area, ratio)
        )
