"""The web page of `demo`: a prompt and a seed in, pictures and timings out."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
from PIL import Image

from ..configuration import TwinFlowConfigError
from ..pipelines import TwinFlowPipeline
from .clips import save_clip
from .comparison import Comparison, Drawn, check_prompt, check_seed

HOUR = 3600
CSS = """
.picture .image-frame, .picture img {width: 100% !important; height: auto !important}
.picture img {object-fit: contain !important}
"""


def build_page(comparison: Comparison, *, title: str, prompt: str, seed: int) -> gr.Blocks:
    """The page, not open yet; its pictures are deleted from the disk after an hour and when it closes.

    Its one function, `/draw` to clients, takes a prompt and a seed, and gives all pictures and then all timings, in the
    order of `comparison.labels`; it yields them again after every picture that it draws.

    Args:
        prompt, seed: what its fields hold at first.
    """
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(
            f"# {title}\nAll pictures start from the noise of the seed. "
            "The times are of whole calls, text encoders and decoder included."
        )
        with gr.Row(equal_height=True):
            prompt_box = gr.Textbox(prompt, label="Prompt", scale=6, autofocus=True)
            seed_box = gr.Number(seed, label="Seed", scale=1)
            button = gr.Button("Draw", variant="primary", scale=1)
        with gr.Row():
            outputs = [_column(label) for label in comparison.labels]

        def draw(prompt: str, seed: float | None) -> Iterator[list]:
            try:
                prompt, seed = check_prompt(prompt), check_seed(seed)
            except TwinFlowConfigError as error:
                raise gr.Error(str(error), print_exception=False) from error
            pictures, times = dict.fromkeys(comparison.labels), dict.fromkeys(comparison.labels)
            with TemporaryDirectory() as folder:  # the page keeps copies of its own
                for label, drawn in comparison.draw(prompt, seed):
                    pictures[label] = shown(drawn, Path(folder, f"{label}.webp"), comparison.pipeline)
                    times[label] = f"{drawn.seconds:.3g} s"
                    yield [*pictures.values(), *times.values()]

        gr.on(
            [button.click, prompt_box.submit, seed_box.submit],
            draw,
            [prompt_box, seed_box],
            [image for image, _ in outputs] + [timing for _, timing in outputs],
            api_name="draw",
            concurrency_limit=1,
        )
    return page


def shown(drawn: Drawn, path: Path, pipeline: TwinFlowPipeline) -> Image.Image | Path:
    """A picture, or the path that a clip has been written to."""
    if len(drawn.frames) == 1:
        return drawn.image
    save_clip(drawn.frames, path, pipeline)
    return path


def _column(label: str) -> tuple[gr.Image, gr.Textbox]:
    with gr.Column(min_width=160):
        image = gr.Image(
            label=label,
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_classes="picture",
        )
        timing = gr.Textbox(label=label)
    return image, timing


def open_page(page: gr.Blocks, *, host: str, port: int | None, share: bool) -> str:
    """Serve the page from threads of their own; returns its address here. Of a public one gradio itself tells."""
    _, local_url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        show_error=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
        css=CSS,
    )
    return local_url
