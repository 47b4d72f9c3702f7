"""Open a web page that compares a TwinFlow LoRA at 1, 2 and 4 steps with its base at 50 steps."""

import argparse
import importlib.util
import socket
from pathlib import Path

from ..configuration import TwinFlowConfigError
from .output import note, say
from .shared_arguments import add_comparison_arguments, add_pipeline_arguments, check_drawing, check_prompt

LAST_PORT = 65535
DEFAULT_PROMPT = "a red fox in the snow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser)
    add_comparison_arguments(parser)
    parser.add_argument(
        "--prompt",
        default="",
        help="Prompt that the page starts with. Default: the first sample prompt of a local adapter.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on. Use 0.0.0.0 to allow access from your network. Default: 127.0.0.1.",
    )
    parser.add_argument("--port", type=int, help="Port. Default: the first free port from 7860.")
    parser.add_argument(
        "--share", action="store_true", help="Make the page public on the internet, through gradio's servers."
    )


def run(args: argparse.Namespace) -> None:
    check_arguments(args)
    from .command_pipeline import load_pipeline
    from .comparison import Comparison
    from .demo_page import build_page

    pipeline, options = load_pipeline(args)
    comparison = Comparison(pipeline, args.steps, args.base_steps, base_guidance=args.base_guidance, **options)
    prompt = args.prompt or default_prompt(args.adapter)
    note("Generating the first images of the page ...")
    Comparison(pipeline, [1], 1, **options).draw_all(prompt, args.seed)  # warm up before times are measured
    first = comparison.draw_all(prompt, args.seed)
    title = f"TwinFlow: {shown_name(args.adapter)}"
    page = build_page(comparison, title=title, prompt=prompt, seed=args.seed, first=first)
    url = page.open(host=args.host, port=args.port, share=args.share)
    say(f"The page is open at {url}")
    page.blocks.block_thread()


def check_arguments(args: argparse.Namespace) -> None:
    """Check the arguments before anything is loaded.

    Raises:
        TwinFlowConfigError: if gradio is not installed or an argument is not valid.
    """
    if importlib.util.find_spec("gradio") is None:
        raise TwinFlowConfigError("demo needs gradio, which is not installed: pip install 'diffusers-twinflow[web]'.")
    check_drawing(args)
    if args.prompt:
        check_prompt(args.prompt)
    check_address(args.host, args.port)
    from .command_pipeline import check_comparable

    check_comparable(args)


def default_prompt(adapter: str) -> str:
    """Return the first sample prompt of a local adapter, or a fixed prompt if there is none."""
    from ..hub.sample_images import read_prompts

    return next(iter(read_prompts(adapter)), DEFAULT_PROMPT)


def shown_name(adapter: str) -> str:
    """Return a name of the adapter without local paths: a Hub id, or the last folder of a path."""
    return Path(adapter).resolve().name if Path(adapter).is_dir() else adapter


def check_address(host: str, port: int | None) -> None:
    """Check that a server can listen on an address.

    Raises:
        TwinFlowConfigError: if it cannot.
    """
    if port is not None and not 1 <= port <= LAST_PORT:
        raise TwinFlowConfigError(f"--port={port} is not a valid port. Use a port from 1 to {LAST_PORT}.")
    try:
        socket.create_server((host, port or 0)).close()
    except OSError as error:
        place = f"--host={host}" if port is None else f"--port={port} of --host={host}"
        raise TwinFlowConfigError(f"{place} cannot be used ({error.strerror}). Choose another one.") from error
