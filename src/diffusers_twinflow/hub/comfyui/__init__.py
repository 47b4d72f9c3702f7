"""Exports for ComfyUI: a LoRA with the keys that it reads, and a workflow that samples on a given grid."""

from .layouts import LAYOUTS, Layout, layout_of
from .lora import comfyui_lora
from .workflow import comfyui_workflow

__all__ = ["LAYOUTS", "Layout", "comfyui_lora", "comfyui_workflow", "layout_of"]
