"""A few-step model in the latents of a published autoencoder: the parts of `benchmarks/latent.py`."""

from quality import ROOT

__all__ = ["ROOT"]
