"""Training methods. A method first draws all its randomness and then computes a deterministic loss."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from . import twinflow as twinflow
    from .base import AveragedWeights, LossOutput, Method, Networks, Teacher, TeacherPasses
    from .flow_matching import FlowMatching
    from .merged_passes import MergedPasses
    from .twinflow import BRANCHES, Branch, BranchSamples, TwinFlow

__all__ = [
    "BRANCHES",
    "AveragedWeights",
    "Branch",
    "BranchSamples",
    "FlowMatching",
    "LossOutput",
    "MergedPasses",
    "Method",
    "Networks",
    "Teacher",
    "TeacherPasses",
    "TwinFlow",
]
MODULES = {
    "BRANCHES": ".twinflow",
    "AveragedWeights": ".base",
    "Branch": ".twinflow",
    "BranchSamples": ".twinflow",
    "FlowMatching": ".flow_matching",
    "LossOutput": ".base",
    "MergedPasses": ".merged_passes",
    "Method": ".base",
    "Networks": ".base",
    "Teacher": ".base",
    "TeacherPasses": ".base",
    "TwinFlow": ".twinflow",
}

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    __getattr__, __dir__ = lazy_names(globals(), MODULES, submodules=("twinflow",))
