"""What the options in a `twinflow_config.json` of an earlier format mean today."""

from dataclasses import replace

from ..configuration import TwinFlowConfig

FORMAT_VERSION = 2
"""The format that is written. Format 1, which does not name itself, averages rectification over the one-step samples."""


def convert_options(config: TwinFlowConfig, format_version: int) -> TwinFlowConfig:
    """The options that train today as the given ones trained when a file of `format_version` was written."""
    if format_version >= FORMAT_VERSION or not config.twinflow_adversarial_enabled:
        return config
    shares = config.branch_shares
    if not shares["one_step"]:
        return config
    weight = config.twinflow_rectify_weight * sum(shares.values()) / shares["one_step"]
    return replace(config, twinflow_rectify_weight=weight)
