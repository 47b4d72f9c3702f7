"""Convert the options of a `twinflow_config.json` that was written in an earlier format."""

from dataclasses import replace

from ..configuration import TwinFlowConfig

FORMAT_VERSION = 2
"""The format that is written now. Files of format 1 have no version and average rectification over the one-step samples."""


def convert_options(config: TwinFlowConfig, format_version: int) -> TwinFlowConfig:
    """Convert options of an earlier format so that they train the same way with this version."""
    if format_version >= FORMAT_VERSION or not config.twinflow_adversarial_enabled:
        return config
    shares = config.branch_shares
    if not shares["one_step"]:
        return config
    weight = config.twinflow_rectify_weight * sum(shares.values()) / shares["one_step"]
    return replace(config, twinflow_rectify_weight=weight)
