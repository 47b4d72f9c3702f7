"""Convert a transformer that the TwinFlow authors or SimpleTuner published to the layout of this package."""

import argparse

from .arguments import add_hub_arguments
from .output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="The published transformer: a folder or a Hub id.")
    parser.add_argument("output", help="New folder for the converted transformer.")
    parser.add_argument("--subfolder", help="Folder of the transformer in the source, such as transformer.")
    add_hub_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from ..hub.published import convert_published_transformer

    published = convert_published_transformer(
        args.source, args.output, subfolder=args.subfolder, revision=args.revision, token=args.token
    )
    say("class:", published.twinflow_class.__name__)
    say("conditioning:", published.layout.conditioning)
    say("weight_files:", len(published.shards))
