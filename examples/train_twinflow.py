#!/usr/bin/env python
"""Distill a flow-matching text-to-image model with TwinFlow, or train it with ordinary flow matching.

    accelerate launch examples/train_twinflow.py --config recipe.json --output_dir out

`diffusers-twinflow train` runs the same code. To do this in Python with the options of a recipe:

    options = load_recipe("recipe.json", {"output_dir": "out"})
    trainer = Trainer(None, options.arguments, options.method())
    trainer.train()
"""

from diffusers_twinflow.cli.train import build_parser, main, parse_args

__all__ = ["build_parser", "main", "parse_args"]

if __name__ == "__main__":
    main()
