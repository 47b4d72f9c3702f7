"""Build the web page of `demo`, which generates images from a prompt and a seed and shows their times."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from ..configuration import TwinFlowConfigError
from .comparison import Comparison, Drawn
from .media_files import save_clip
from .page_guard import ARRIVED, Listeners, PageGuard
from .shared_arguments import MAX_PROMPT_LENGTH, check_prompt, check_seed

HOUR = 3600
MAX_WAITING = 100
NOTE = "All images start from the same noise, which depends on the seed. Times include text encoding and decoding."
CSS = """
#heading h1 {font-size: 1.25rem; margin: 0}
#inputs {display: grid; grid-template-columns: minmax(0, 1fr) 9rem 8rem; gap: 10px; align-items: end}
#inputs .form {display: contents}
#inputs .form > .block {padding: 0 !important; border: 0; overflow: visible !important}
#inputs > *, #inputs .form > * {min-width: 0 !important}
#draw {height: 42px}
#note {color: var(--body-text-color-subdued); font-size: .85rem}
#results {display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 16px}
.result {display: grid !important; grid-template-columns: 1fr auto; gap: 4px 8px !important; min-width: 0 !important}
.result .picture {grid-column: 1 / -1}
.result .label * {font-weight: 600}
.result .time {font-variant-numeric: tabular-nums}
.picture .image-frame, .picture img {width: 100% !important; height: auto !important}
.picture img {object-fit: contain !important}
.picture .empty {height: auto !important; min-height: 0 !important; aspect-ratio: 1}
footer {display: none !important}
@media (max-width: 640px) {
  #heading h1 {font-size: 1.05rem}
  #inputs {grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 8px}
  #inputs .form > :first-child {grid-column: 1 / -1}
  .result .label *, .result .time * {font-size: .8rem; white-space: nowrap}
  #results {grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px}
}
"""
FRAME = """<style>
.gradio-container, .gradio-container .main {padding: 0 !important}
.gradio-container main {width: 100%; max-width: 1600px !important; margin: 0 auto !important; padding: 12px 20px !important}
@media (max-width: 640px) {.gradio-container main {padding: 4px 10px !important}}
</style>"""
"""Styles for parts of the page that gradio's `css` does not reach."""
MOST_COLUMNS = 5


@dataclass(frozen=True)
class Page:
    """The page and the sessions that wait for its results."""

    blocks: gr.Blocks
    listeners: Listeners
    columns: int

    def open(self, *, host: str, port: int | None, share: bool) -> str:
        """Serve the page in background threads and return its local address. gradio prints a public address itself."""
        _, local_url, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            show_error=True,
            quiet=True,
            ssr_mode=False,
            run_history=False,
            css=f":root {{--columns: {min(self.columns, MOST_COLUMNS)}}}{CSS}",
            head=FRAME,
            app_kwargs={"middleware": [Middleware(PageGuard, self.listeners)]},
        )
        return local_url


def build_page(
    comparison: Comparison, *, title: str, prompt: str, seed: int, first: Mapping[str, Drawn] | None = None
) -> Page:
    """Build the page without opening it. Its images are deleted from the disk after an hour and when it closes.

    The page has one API function, `/draw`. It takes a prompt and a seed, and returns all images and then all times in
    the order of `comparison.labels`. It yields them again after every new image.

    Args:
        comparison: generates the images.
        title: heading of the page.
        prompt, seed: initial values of the fields.
        first: images of this prompt and seed, by label, that the page shows at first. Defaults to none.
    """
    listeners = Listeners()
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, HOUR), fill_width=True) as page:
        gr.Markdown(f"# {title}", elem_id="heading")
        with gr.Row(elem_id="inputs"):
            prompt_box = gr.Textbox(
                prompt, label="Prompt", lines=1, max_lines=4, max_length=MAX_PROMPT_LENGTH, autofocus=True
            )
            seed_box = gr.Number(seed, label="Seed", precision=None)
            button = gr.Button("Generate", variant="primary", elem_id="draw")
        note = gr.Markdown(NOTE, elem_id="note")
        with gr.Row(elem_id="results"):
            outputs = [_column(label) for label in comparison.labels]
        images, times = [image for image, _ in outputs], [timing for _, timing in outputs]

        def check(prompt: str, seed: float | None) -> list[dict]:
            return [_validation(check_prompt, prompt), _validation(check_seed, seed)]

        def draw(prompt: str, seed: float | None, request: gr.Request) -> Iterator[list]:
            try:
                prompt, seed = check_prompt(prompt), check_seed(seed)
                served: Any = request.request  # set for every request that came from the page
                listeners.check(request.session_hash or "", served.scope[ARRIVED])
                yield from show(comparison.draw(prompt, seed))
            except TwinFlowConfigError as error:
                raise gr.Error(str(error), print_exception=False) from error

        def show(drawings: Iterable[tuple[str, Drawn]]) -> Iterator[list]:
            pictures, times = dict.fromkeys(comparison.labels), dict.fromkeys(comparison.labels)
            with TemporaryDirectory() as folder:  # gradio copies the files
                for label, drawn in drawings:
                    pictures[label], times[label] = _shown(drawn, folder, comparison)
                    yield [*pictures.values(), *times.values()]

        if first:  # initial values of components would leave their files on the disk
            page.load(lambda: (yield from show(first.items())), None, [*images, *times], api_visibility="private")
        gr.on(
            [button.click, prompt_box.submit, seed_box.submit],
            draw,
            [prompt_box, seed_box],
            [*images, *times],
            api_name="draw",
            concurrency_limit=1,
            validator=check,
            show_progress="minimal",
            show_progress_on=[note],
        )
    page.queue(max_size=MAX_WAITING)
    return Page(page, listeners, len(comparison.labels))


def _validation(check: Callable[[Any], object], value: Any) -> dict[str, Any]:
    try:
        check(value)
    except TwinFlowConfigError as error:
        return gr.validate(False, str(error))
    return gr.validate(True, "")


def _shown(drawn: Drawn, folder: str, comparison: Comparison) -> tuple[Image.Image | Path, str]:
    """Return the image, or the path of the saved video, and the time that it took as text."""
    time = f"{drawn.seconds:.3g} s"
    if len(drawn.frames) == 1:
        return drawn.image, time
    path = Path(folder, f"{uuid4()}.webp")
    save_clip(drawn.frames, path, comparison.pipeline)
    return path, time


def _column(label: str) -> tuple[gr.Image, gr.Markdown]:
    with gr.Column(elem_classes="result"):
        gr.Markdown(label, elem_classes="label")
        timing = gr.Markdown(label=f"Time of {label}", elem_classes="time")
        image = gr.Image(
            label=label,
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_classes="picture",
        )
    return image, timing
