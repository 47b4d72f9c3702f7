"""Rewrite a transformer that the TwinFlow authors or SimpleTuner published, for the TwinFlow classes."""

import argparse

from ..hub.published import convert_published_transformer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="The published transformer: a directory or a Hub id.")
    parser.add_argument("output", help="A new directory for the converted one.")
    parser.add_argument("--subfolder", help="Folder of the transformer in the source, such as transformer.")
    parser.add_argument("--revision", help="Revision on the Hub.")


def run(args: argparse.Namespace) -> None:
    published = convert_published_transformer(
        args.source, args.output, subfolder=args.subfolder, revision=args.revision
    )
    print(f"class: {published.twinflow_class.__name__}")  # noqa: T201
    print(f"conditioning: {published.layout.conditioning}")  # noqa: T201
    print(f"weight_files: {len(published.shards)}")  # noqa: T201
