"""What can be trained: methods that draw their randomness first and then have a deterministic loss."""

from .base import AveragedWeights, LossOutput, Method, Networks, Teacher
from .flow_matching import FlowMatching
from .twinflow import TwinFlow

__all__ = ["AveragedWeights", "FlowMatching", "LossOutput", "Method", "Networks", "Teacher", "TwinFlow"]
