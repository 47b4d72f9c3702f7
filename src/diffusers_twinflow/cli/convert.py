"""Convert a training checkpoint, or a TwinFlow transformer that others published, to files that `from_pretrained` loads.

A `checkpoint-N` folder of a training run is converted to the result that the run would have saved at that step, such as
a LoRA repository. A published transformer is converted to a class of this package.
"""

import argparse

from .output import note, say
from .shared_arguments import add_hub_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="Folder checkpoint-N, or a published transformer: a folder or a Hub id.")
    parser.add_argument("output", help="New folder for the result.")
    parser.add_argument(
        "--arguments",
        help="training_arguments.json of the checkpoint's run. Default: the file in the checkpoint or its run's folder.",
    )
    parser.add_argument("--base_model", help="Folder or Hub id of the checkpoint's base, if it has moved.")
    add_hub_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from ..training.conversion import convert_checkpoint, is_checkpoint

    if is_checkpoint(args.source):
        note("Loading the base and the checkpoint ...")
        trained = convert_checkpoint(args.source, args.output, arguments=args.arguments, base_model=args.base_model)
        say(f"{args.output}:", "LoRA" if trained.train_type == "lora" else "whole model")
        return
    from ..hub.published import convert_published_transformer

    published = convert_published_transformer(
        args.source, args.output, subfolder=args.subfolder, revision=args.revision, token=args.token
    )
    say("class:", published.twinflow_class.__name__)
    say("conditioning:", published.layout.conditioning)
    say("weight_files:", len(published.shards))
