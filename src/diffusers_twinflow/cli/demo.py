"""Open a web page that draws a prompt with the base at many steps beside the TwinFlow LoRA at 1, 2 and 4."""

import argparse
import importlib.util
import socket
from pathlib import Path

from ..configuration import TwinFlowConfigError
from .comparison import Comparison, check_seed
from .loading import (
    add_comparison_arguments,
    add_pipeline_arguments,
    check_comparable,
    load_pipeline,
    size_options,
)

LAST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser)
    add_comparison_arguments(parser)
    parser.add_argument("--prompt", default="", help="What the page's prompt is at first.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 opens it to the network.")
    parser.add_argument("--port", type=int, help="Defaults to the first free one from 7860 on.")
    parser.add_argument(
        "--share", action="store_true", help="Open it to the internet by a link through gradio's servers."
    )


def run(args: argparse.Namespace) -> None:
    check_arguments(args)
    from .demo_page import build_page, open_page

    comparison = Comparison(
        load_pipeline(args), args.steps, args.base_steps, base_guidance=args.base_guidance, **size_options(args)
    )
    comparison.draw_all(args.prompt, args.seed)  # so that no timing on the page has the device's start-up in it
    page = build_page(comparison, title=f"TwinFlow: {shown_name(args.adapter)}", prompt=args.prompt, seed=args.seed)
    url = open_page(page, host=args.host, port=args.port, share=args.share)
    print(f"The page is open at {url}", flush=True)  # noqa: T201
    page.block_thread()


def check_arguments(args: argparse.Namespace) -> None:
    """
    Raises:
        TwinFlowConfigError: for what can be told before anything is loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise TwinFlowConfigError("demo needs gradio, which is not installed: pip install 'diffusers-twinflow[web]'.")
    check_address(args.host, args.port)
    check_seed(args.seed)
    check_comparable(args)


def shown_name(adapter: str) -> str:
    """What to call the adapter before strangers: a Hub id, or the last folder of a path."""
    return Path(adapter).resolve().name if Path(adapter).is_dir() else adapter


def check_address(host: str, port: int | None) -> None:
    """
    Raises:
        TwinFlowConfigError: where nothing can listen there.
    """
    if port is not None and not 1 <= port <= LAST_PORT:
        raise TwinFlowConfigError(f"--port={port} is no port: give one from 1 to {LAST_PORT}.")
    try:
        socket.create_server((host, port or 0)).close()
    except OSError as error:
        place = f"--host={host}" if port is None else f"--port={port} of --host={host}"
        raise TwinFlowConfigError(f"{place} cannot be listened on ({error.strerror}): give another.") from error
