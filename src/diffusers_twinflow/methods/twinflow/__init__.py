"""TwinFlow: the method, its branches, its randomness and its objective."""

from .branches import BRANCHES, Branch, BranchRotation
from .method import TwinFlow

__all__ = ["BRANCHES", "Branch", "BranchRotation", "TwinFlow"]
