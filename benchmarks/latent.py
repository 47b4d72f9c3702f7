"""Compare ways to make a few-step model of captioned drawings at 256 pixels, in the latents of a published autoencoder.

On a GPU, with the file that `benchmarks/latent/packing.py` writes, the autoencoder of `benchmarks/latent/autoencoder.py`, and
checkouts of two other repositories (inclusionAI/TwinFlow and zhuyu-cs/MeanFlow):

    python benchmarks/latent.py --drawings fluent.zip --autoencoder taesd --authors TwinFlow --mean_flow MeanFlow

The drawings are encoded once. A judge is trained on them, and a base with flow matching. Then each way distills the base for
the same minutes: this package with the recommended recipe, the TwinFlow authors' code, and MeanFlow. Their images are scored
with the metrics of `diffusers-twinflow evaluate`.

A drawing has two captions, its name and its group, and training uses either of them. The scores use captions of groups, which
many drawings share. The mean of these drawings is not a drawing, so one step of the base is not enough.

Everything is written to `latent.json` in the output folder as soon as it is measured. Another call with the same folder
continues there. A part that fails is reported, and the others still run. Two GPUs share the work with two calls and one folder:

    CUDA_VISIBLE_DEVICES=0 python benchmarks/latent.py ... --ways full lora
    CUDA_VISIBLE_DEVICES=1 python benchmarks/latent.py ... --ways authors mean_flow --wait_for_base

Without `--drawings` this is a rehearsal: tiny models on plain shapes with a random autoencoder, to see that everything runs. Its
numbers mean nothing.
"""

import argparse
import gc
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from diffusers_twinflow.evaluation.settings import library_versions
from latent import report as figures
from latent.autoencoder import build_autoencoder, encode, normalize, psnr, reconstruct, set_statistics
from latent.data import Encoded, draw_shapes, pixels_of, unpack
from latent.drawing import Artist, load_base
from latent.judge import CaptionJudge, load_judge, save_judge, train_judge
from latent.record import Record
from latent.scoring import Prompts, Scorer
from latent.settings import FULL, REHEARSAL, Settings
from latent.training import build_pipeline, encode_captions, train_base
from latent.ways import ANY_STYLE, COMPARED, OURS, WAYS, Place, drawn_by, train
from quality.sampling import STOCK_SCHEDULERS
from quality.timing import synchronize

FEW_STEP_SCHEDULERS = ("FlowMatchEuler", "UniPC")
MINUTES_TO_START = {"full": 0.7, "lora": 1.1}
OTHER_MINUTES_TO_START = 0.4
"""Minutes for compilation and scores on a GPU, in addition to training. Our code compiles once per train type."""
SECONDS_TO_WAIT = 3.0
MOST_STEPS_OF_CURVES = 4


class Benchmark:
    """The stages of the benchmark. Results of an earlier call in the same folder are used again."""

    def __init__(self, args: argparse.Namespace, settings: Settings):
        self.args, self.settings, self.start = args, settings, time.monotonic()
        self.directory = Path(args.output_dir)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.stages = ["data", "wait" if args.wait_for_base else "base", "judge", "reference", *args.ways, "figures"]
        self.record = Record(self.directory / "latent.json", self.stages)
        self.record.report |= {
            "commands": [command_of(args)],
            "settings": asdict(settings),
            "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": library_versions() | {"torch": torch.__version__},
        }

    @property
    def report(self) -> dict:
        return self.record.report

    def run(self) -> Record:
        self.stage("data", self.read)
        if self.args.wait_for_base:
            self.stage("wait", self.wait_for_base)
        if not self.record.own("errors") and not self.record.own("skipped"):
            self.stage("judge", self.train_judge)
            if not self.has_base:
                self.stage("base", self.train_base, self.args.base_minutes + (self.device.type == "cuda"))
        if self.has_base and not self.record.own("errors"):
            self.stage("reference", self.score_base)
            for name in self.args.ways:
                self.stage(name, lambda name=name: self.run_way(name), self.minutes_of(name))
            self.write_figures()
        return self.record

    @property
    def minutes_left(self) -> float:
        return self.args.total_minutes - (time.monotonic() - self.start) / 60

    def stage(self, name: str, work: Callable[[], object], minutes: float = 0) -> None:
        """Run a stage if enough time is left. A failure is recorded, because the other stages may still work."""
        left = self.minutes_left
        if left < minutes:
            self.report["skipped"][name] = f"needs {minutes:.1f} minutes, {left:.1f} are left"
            print(f"[{name}] skipped: {self.report['skipped'][name]}", flush=True)
            return self.record.save()
        began = time.monotonic()
        print(f"[{name}] starts, {left:.1f} minutes left", flush=True)
        try:
            work()
        except Exception as error:
            self.report["errors"][name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        if name in self.args.ways or not self.args.wait_for_base:
            seconds = self.report["seconds"]
            seconds[name] = seconds.get(name, 0) + time.monotonic() - began
        print(f"[{name}] took {time.monotonic() - began:.0f} s", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.record.save()

    @property
    def base(self) -> Path:
        return self.directory / "base"

    @property
    def has_base(self) -> bool:
        return (self.base / "model_index.json").is_file()

    def minutes_of(self, name: str) -> float:
        """Return the minutes that a way needs."""
        if all(self.record.row_of(name, steps) for steps in self.steps_of(name)):
            return 0
        way = WAYS[name]
        compiled = {WAYS[other].train_type for other in self.report["ways"] if WAYS[other].code == OURS}
        start = OTHER_MINUTES_TO_START
        if way.code == OURS and way.train_type not in compiled:
            start = MINUTES_TO_START[way.train_type]
        if self.device.type != "cuda":
            start = 0
        return start + (0 if name in self.report["ways"] else self.args.minutes * way.share)

    def steps_of(self, name: str) -> tuple[int, ...]:
        """Return the steps in which the images of a way are scored. The curves need less than the comparison."""
        few_steps = self.settings.few_steps
        return few_steps if name in COMPARED else tuple(steps for steps in few_steps if steps <= MOST_STEPS_OF_CURVES)

    # The parts.

    def read(self) -> None:
        """Read and encode the drawings, and choose the prompts."""
        settings, args = self.settings, self.args
        self.drawings = (
            draw_shapes(settings.image_size) if args.drawings is None else unpack(args.drawings, settings.image_size)
        )
        self.pixels = pixels_of(self.drawings)
        self.prompts = Prompts.choose(self.drawings, settings.shared_prompts, settings.known_prompts)
        self.autoencoder = build_autoencoder(args.autoencoder)
        latents = encode(self.autoencoder, self.pixels, self.device)
        set_statistics(self.autoencoder, latents)
        described = [(drawing.caption, drawing.group_caption) for drawing in self.drawings]
        captions = list(dict.fromkeys(caption for both in described for caption in both))
        places = {caption: place for place, caption in enumerate(captions)}
        pipeline = build_pipeline(captions, settings)
        self.samples = Encoded(
            normalize(self.autoencoder, latents).to(self.device),
            self.condition_of(pipeline, captions),
            torch.tensor([[places[caption] for caption in both] for both in described]),
            self.condition_of(pipeline, [""]),
            settings.base_batch_size,
            settings.seed,
        )
        self.untrained = pipeline
        self.record.report |= {
            "drawings": len(self.drawings),
            "groups": len({drawing.group for drawing in self.drawings}),
            "parameters": sum(parameter.numel() for parameter in pipeline.transformer.parameters()),
        }

    def condition_of(self, pipeline, captions: list[str]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in encode_captions(pipeline, captions).items()}

    def wait_for_base(self) -> None:
        """Wait until another call has trained the judge and the base, and scored the base."""
        while not (self.has_base and all(self.record.row_of(*row) for row in self.base_rows)):
            if self.minutes_left < self.args.minutes:
                raise TimeoutError(
                    "no other call has trained and scored a base: start one with the same --output_dir and without "
                    "--wait_for_base."
                )
            time.sleep(SECONDS_TO_WAIT)
            self.record.save()

    @property
    def base_rows(self) -> list[tuple[str, int]]:
        """The rows of the base, by way and steps."""
        few = [(f"{figures.BASE}-{name}", steps) for name in FEW_STEP_SCHEDULERS for steps in self.settings.few_steps]
        return [(figures.BASE, self.settings.draw_steps), *few]

    def train_judge(self) -> None:
        """Train the judge or load it, and score the drawings and their reconstructions."""
        groups = {drawing.caption: drawing.group_caption for drawing in self.drawings}
        torch.manual_seed(self.settings.seed)
        judge = CaptionJudge(list(groups), list(groups.values()), self.settings)
        path = self.directory / "judge.safetensors"
        if path.is_file():
            load_judge(judge, path, self.device)
        else:
            texts = [drawing.caption for drawing in self.drawings]
            self.report["judge"] = train_judge(judge, self.pixels, texts, self.settings, self.device)
            save_judge(judge, path)
        self.scorer = Scorer(judge, self.pixels, self.device)
        chosen = self.pixels[self.prompts.places]
        decoded = reconstruct(self.autoencoder, chosen, self.device)
        self.report["psnr"] = psnr(chosen, decoded)
        self.add_row(figures.REAL, None, chosen, 0)
        self.add_row("autoencoder", None, decoded, 0)

    def train_base(self) -> None:
        untrained = self.directory / "untrained"
        shutil.rmtree(self.base, ignore_errors=True)  # from a call that was interrupted
        self.untrained.save_pretrained(untrained)
        usage = train_base(untrained, self.samples, self.base, self.settings, self.args.base_minutes)
        self.report["base"] = usage.to_dict()

    def score_base(self) -> None:
        """Choose the guidance scale of the base, and score the base in many and in few steps."""
        pipeline = load_base(self.base, self.autoencoder, self.device)
        steps, settings = self.settings.draw_steps, self.settings
        if "guidance" not in self.report:
            artist = self.artist(pipeline, Prompts.choose(self.drawings, settings.scan_prompts).shared)
            scan = {}
            for scale in settings.guidance_scales:
                images, _ = artist.with_pipeline(pipeline, max(2, steps // 2), guidance_scale=scale)
                scan[scale] = self.scorer.distance(images)
            self.report["guidance_scan"] = scan
            self.report["guidance"] = min(scan, key=scan.get)
            self.record.save()
        scale = self.report["guidance"]
        factor = 1 if scale <= 1 else 2
        self.draw_artist = self.artist(pipeline, self.prompts.all)
        if not self.record.row_of(figures.BASE, steps):
            images, seconds = self.draw_artist.with_pipeline(pipeline, steps, guidance_scale=scale)
            self.add_row(figures.BASE, steps, images, seconds, factor * steps)
        for name in FEW_STEP_SCHEDULERS:
            for few in settings.few_steps:
                if not self.record.row_of(f"{figures.BASE}-{name}", few):
                    images, seconds = self.draw_artist.with_pipeline(
                        pipeline, few, guidance_scale=scale, scheduler=STOCK_SCHEDULERS[name]()
                    )
                    self.add_row(f"{figures.BASE}-{name}", few, images, seconds, factor * few)

    def artist(self, pipeline, prompts: list[str]) -> Artist:
        shape = self.samples.latents.shape[1:]
        return Artist(pipeline, prompts, shape, self.settings.seed, self.settings.draw_batch)

    def run_way(self, name: str) -> None:
        """Distill the base in one way, if that is not done, and score the result."""
        way = WAYS[name]
        place = Place(self.base, self.directory / name, self.args.authors, self.args.mean_flow, self.device)
        if name not in self.report["ways"]:
            torch._dynamo.reset()  # the ways must not share its limit of compilations
            shutil.rmtree(place.output, ignore_errors=True)
            self.report["ways"][name] = train(way, place, self.samples, self.settings, self.args.minutes * way.share)
            self.record.save()
        draws = drawn_by(way, place, self.draw_artist, self.autoencoder, in_any_style=name in COMPARED)
        for style, draw in draws.items():
            for steps in self.steps_of(name):
                is_same = style == ANY_STYLE and steps == 1
                if not is_same and not self.record.row_of(name + style, steps):
                    self.add_row(name + style, steps, *draw(steps), steps)
        self.write_figures()

    # Results.

    def add_row(
        self, way: str, steps: int | None, images: torch.Tensor, seconds: float, evaluations: int | None = None
    ) -> None:
        """Score the images of all prompts, and save some of them for the grids."""
        if self.record.row_of(way, steps):
            return
        row = {"way": way, "steps": steps, "evaluations": evaluations, "seconds_per_image": seconds}
        row["scores"] = self.scorer.score(images, self.prompts)
        self.report["rows"].append(row)
        places = figures.grid_places(self.prompts.shared)
        figures.save_strip(images, figures.strip_path(self.directory, way, steps), places)
        shown = {name: round(value, 4) for name, value in row["scores"].items()}
        print(f"  {way}, {steps} steps: {shown}", flush=True)
        self.record.save()

    def write_figures(self) -> None:
        try:
            prompts = [self.prompts.shared[place] for place in figures.grid_places(self.prompts.shared)]
            figures.write_grids(self.directory, self.settings.few_steps, self.settings.draw_steps, prompts)
            figures.write_curve(self.directory / "curve.png", self.report)
        except Exception as error:
            self.report["errors"]["figures"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self.record.save()


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drawings", type=Path, help="File that benchmarks/latent/packing.py wrote.")
    parser.add_argument("--autoencoder", type=Path, help="Folder with taef2_encoder.pth and taef2_decoder.pth.")
    parser.add_argument("--authors", type=Path, help="Checkout of the repository inclusionAI/TwinFlow.")
    parser.add_argument("--mean_flow", type=Path, help="Checkout of the repository zhuyu-cs/MeanFlow.")
    parser.add_argument(
        "--wait_for_base",
        action="store_true",
        help="Use the judge and the base that another call trains in this folder.",
    )
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="Ways to distill, in this order.")
    parser.add_argument("--base_minutes", type=float, default=6.0, help="Minutes to train the base.")
    parser.add_argument("--minutes", type=float, default=2.0, help="Minutes to distill in each way.")
    parser.add_argument(
        "--total_minutes", type=float, default=1e6, help="Start no stage that does not fit into these minutes."
    )
    parser.add_argument("--output_dir", default="outputs/latent", help="Folder for models, images and scores.")
    args = parser.parse_args(input_args)
    if (args.drawings is None) != (args.autoencoder is None):
        parser.error("give --drawings and --autoencoder together, or neither of them for a rehearsal.")
    return args


def command_of(args: argparse.Namespace) -> str:
    """Return the command with these options, and with the names of files instead of their paths."""
    words = ["python", "benchmarks/latent.py"]
    for name, value in vars(args).items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False and name != "output_dir":
            values = value if isinstance(value, list) else [value.name if isinstance(value, Path) else f"{value}"]
            words += [f"--{name}", *values]
    return " ".join(words)


def main(args: argparse.Namespace) -> None:
    record = Benchmark(args, FULL if args.drawings else REHEARSAL).run()
    synchronize()
    for kind in ("skipped", "errors"):
        for name, reason in record.own(kind).items():
            print(f"{kind}: {name}: {reason}", flush=True)
    if record.own("errors"):
        raise SystemExit(1)


if __name__ == "__main__":
    main(parse_args())
