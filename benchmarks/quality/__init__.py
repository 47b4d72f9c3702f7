"""How good few-step models get on drawn images with captions: the parts of `benchmarks/quality.py`.

What `examples/digits` has already (autoencoder, frozen text encoders, Frechet distance) is imported from there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "examples", ROOT / "examples" / "digits"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
