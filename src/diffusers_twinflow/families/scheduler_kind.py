"""Tell from a pipeline's scheduler whether its model is a flow-matching model."""

from collections.abc import Mapping


def is_flow_matching(scheduler_class_name: str, scheduler_config: Mapping) -> bool:
    """Whether the model of a pipeline with this scheduler predicts a flow-matching velocity."""
    flow_prediction = scheduler_config.get("prediction_type") in ("flow_prediction", "flow_matching")
    return "FlowMatch" in scheduler_class_name or flow_prediction
