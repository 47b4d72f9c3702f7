"""The TwinFlow method: its branches, its randomness and its objective."""

from .branches import BRANCHES, Branch, BranchSamples
from .method import TwinFlow
from .rotation import BranchRotation

__all__ = ["BRANCHES", "Branch", "BranchRotation", "BranchSamples", "TwinFlow"]
