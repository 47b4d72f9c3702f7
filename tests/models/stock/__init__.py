"""Every stock transformer class of the table at tiny size, with inputs for two samples."""

from .audio import AUDIO
from .diffusion import DIFFUSION
from .image import IMAGE
from .spec import Stock
from .video import VIDEO

STOCK: dict[str, Stock] = {**IMAGE, **VIDEO, **AUDIO, **DIFFUSION}

__all__ = ["STOCK", "Stock"]
