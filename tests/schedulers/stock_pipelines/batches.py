"""How the tiny pipelines are called for several samples."""

import torch

ONE_PROMPT = ("image to video", "prediction negated, constant mu", "channels last")  # lay out their batch otherwise
RESIZES = (
    "longcat_image.pipeline_longcat_image_edit",
    "qwenimage.pipeline_qwenimage_edit",
    "qwenimage.pipeline_qwenimage_edit_inpaint",
    "qwenimage.pipeline_qwenimage_edit_plus",
    "qwenimage.pipeline_qwenimage_layered",
)


def repeat(contract, call, count):
    """The call for a batch: its prompts and images `count` times, or as many samples of the one prompt."""
    if contract in ONE_PROMPT:
        return {**call, "num_videos_per_prompt" if "num_frames" in call else "num_images_per_prompt": count}
    return {
        name: torch.cat([value] * count)
        if isinstance(value, torch.Tensor)
        else value * count
        if isinstance(value, list)
        else value
        for name, value in call.items()
    }
