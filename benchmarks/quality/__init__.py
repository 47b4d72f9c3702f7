"""The parts of `benchmarks/quality.py`, which measures few-step models on captioned emoji.

The autoencoder, the frozen text encoders and the Frechet distance are imported from `examples/digits`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "examples", ROOT / "examples" / "digits"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
