"""A few-step model of captioned drawings at 256 pixels, in the latents of a published autoencoder.

On a GPU, with the packages of `benchmarks/latent/data.py` and the autoencoder of `benchmarks/latent/autoencoder.py`:

    python benchmarks/latent.py --fluent fluent/package --names google/package --autoencoder taesd --train_type lora

The drawings are encoded once. A base is trained on them with flow matching, distilled with the recommended recipe, and
scored with the code of `diffusers-twinflow evaluate`. Without these folders it is a rehearsal: tiny models on plain shapes
with a random autoencoder, to see that everything runs. Its figures mean nothing. Results are in outputs/ alone.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.evaluation import (
    Evaluation,
    EvaluationArguments,
    EvaluationPlan,
    EvaluationPrompt,
    subject_of,
)
from diffusers_twinflow.evaluation.metrics import FrechetDistance
from diffusers_twinflow.evaluation.rows import rows_of
from diffusers_twinflow.hub.files import locate_repository
from latent.autoencoder import LatentStatistics, build_autoencoder, encode, normalize, psnr, set_statistics
from latent.data import Drawing, Encoded, draw_shapes, pixels_of, read_emoji
from latent.settings import FULL, REHEARSAL, Settings
from latent.training import FAMILY, build_pipeline, distil, encode_captions, train_base

REFERENCE_IMAGES = 2_000
GUIDANCE = 2.0


class Benchmark:
    """Its stages. What an earlier call left in the folder is used again."""

    def __init__(self, args: argparse.Namespace, settings: Settings):
        self.args, self.settings = args, settings
        self.directory = Path(args.output_dir)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self) -> dict:
        drawings = self.read()
        autoencoder = build_autoencoder(self.args.autoencoder)
        pixels = pixels_of(drawings)
        latents = encode(autoencoder, pixels, self.device)
        set_statistics(autoencoder, latents)
        pipeline = build_pipeline([drawing.caption for drawing in drawings], self.settings)
        report = {
            "settings": asdict(self.settings),
            "drawings": len(drawings),
            "psnr": psnr(autoencoder, pixels[: self.settings.prompts], self.device),
            "parameters": sum(parameter.numel() for parameter in pipeline.transformer.parameters()),
        }
        condition = encode_captions(pipeline, [drawing.caption for drawing in drawings])
        samples = Encoded(normalize(autoencoder, latents), condition, encode_captions(pipeline, [""]))
        untrained, base = self.directory / "untrained", self.directory / "base"
        distilled = self.directory / self.args.train_type
        if not (base / "model_index.json").is_file():
            pipeline.save_pretrained(untrained)
            train_base(untrained, samples, base, self.settings)
        if not (distilled / "twinflow_config.json").is_file():
            distil(base, samples, distilled, self.settings, self.args.train_type)
        report["rows"] = self.score(distilled, base, drawings, autoencoder)
        (self.directory / "latent.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return report

    def read(self) -> list[Drawing]:
        if self.args.fluent is None:
            return draw_shapes(self.settings.image_size)
        return read_emoji(self.args.fluent, self.args.names, self.settings.image_size)

    def score(self, distilled: Path, base: Path, drawings: list[Drawing], autoencoder) -> list[dict]:
        """Draw and score the base and the distilled model."""
        reference = self.directory / "reference"
        reference.mkdir(exist_ok=True)
        for number, drawing in enumerate(drawings[:REFERENCE_IMAGES]):
            drawing.image.save(reference / f"{number:05d}.png")
        arguments = EvaluationArguments(
            metrics=["fid"],
            reference_images=str(reference),
            output_dir=str(self.directory / f"scores-{self.args.train_type}"),
            steps=list(self.settings.few_steps),
            base_steps=self.settings.draw_steps,
            base_guidance=GUIDANCE,
            batch_size=min(32, self.settings.prompts),
            restart=True,
        )
        chosen = [drawings[i * len(drawings) // self.settings.prompts] for i in range(self.settings.prompts)]
        prompts = [EvaluationPrompt(drawing.caption) for drawing in chosen]
        seed = self.settings.seed
        plan = EvaluationPlan(arguments, prompts, rows_of(arguments, FAMILY), {"seed": seed}, seed)
        evaluation = Evaluation(plan, Accelerator())
        options = {"base_model": str(base)} if self.args.train_type == "lora" else {}
        pipeline = TwinFlowPipeline.from_pretrained(distilled, vae=autoencoder, **options)
        pipeline.set_progress_bar_config(disable=True)
        subject = subject_of(pipeline.to(self.device), locate_repository(distilled), str(base), vae=autoencoder)
        size = {"height": self.settings.image_size, "width": self.settings.image_size}
        with tqdm(total=evaluation.open_images, desc="Images") as bar:
            metrics = [FrechetDistance(LatentStatistics(autoencoder))]
            results = evaluation.run(metrics, subject, size, bar.update)
        evaluation.write_report()
        return [results.rows[row].to_dict() for row in plan.rows]


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fluent", type=Path, help="Unpacked package @lobehub/fluent-emoji-3d.")
    parser.add_argument("--names", type=Path, help="Unpacked package emoji-datasource-google.")
    parser.add_argument("--autoencoder", type=Path, help="Folder with taef2_encoder.pth and taef2_decoder.pth.")
    parser.add_argument("--train_type", choices=("lora", "full"), default="lora", help="What the distillation trains.")
    parser.add_argument("--output_dir", default="outputs/latent", help="Folder for models, images and scores.")
    args = parser.parse_args(input_args)
    given = [args.fluent, args.names, args.autoencoder]
    if any(given) and not all(given):
        parser.error("give --fluent, --names and --autoencoder together, or none of them for a rehearsal.")
    return args


def main(args: argparse.Namespace) -> None:
    report = Benchmark(args, FULL if args.fluent else REHEARSAL).run()
    for row in report["rows"]:
        print(row["label"], row["scores"], row["error"] or "")


if __name__ == "__main__":
    main(parse_args())
