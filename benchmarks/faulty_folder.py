"""Train on a folder of 5,000 images of mixed sizes, 1% of them corrupt and 1% without a caption.

The training script trains a tiny model for an epoch in aspect-ratio buckets. Then the counts in its log and report are compared
with the number of broken samples.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import tiny  # noqa: E402

SIZES = ((640, 480), (480, 640), (512, 512), (800, 450), (450, 800), (700, 500), (333, 999))
EVERY = 100
"""One of this many images is corrupt, and another one has no caption."""


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder, base, output = (Path(directory, name) for name in ("images", "base", "output"))
        build_folder(folder, args.images)
        tiny.sd3_pipeline().save_pretrained(base)
        seconds, log = run_script(args, folder, base, output, Path(directory, "cache"))
        report = json.loads((output / "data_report.json").read_text())
        expected = args.images // EVERY
        for kind in ("corrupt images", "missing captions"):
            counted = report[kind.replace(" ", "_")]["count"]
            logged = int(re.search(rf"(\d+) {kind}", log)[1])
            print(f"{kind}: {expected} expected, {counted} in the report, {logged} in the log")
            if not expected == counted == logged:
                raise SystemExit(f"{kind}: the counts differ")
        steps = -(-report["trained_on"] // args.batch_size)
        if not (output / f"checkpoint-{steps}").is_dir():
            raise SystemExit(f"there is no checkpoint of step {steps}")
        checking = re.findall(r"Checking samples[^\r\n]*100%[^\r\n]*\[([\d:]+)<", log)
        print(f"{report['samples']} samples, {report['trained_on']} trained on in {steps} steps of {args.batch_size}")
        print(f"{seconds:.0f} s in all; check before training {checking[-1]} (minutes:seconds)")


def build_folder(folder: Path, count: int) -> None:
    """Write JPEG images with a metadata.jsonl. Images 50, 150, ... are cut or overwritten, and 75, 175, ... have no caption."""
    folder.mkdir()
    generator, rows = np.random.default_rng(0), []
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        coarse = generator.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        path = folder / f"{i:05}.jpg"
        Image.fromarray(coarse).resize((width, height)).save(path, quality=90)
        if i % EVERY == 50:
            path.write_bytes(path.read_bytes()[:2000] if i % (2 * EVERY) == 50 else b"no picture")
        rows.append({"file_name": path.name, "text": None if i % EVERY == 75 else f"picture {'abcd'[i % 4]}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def run_script(args, folder: Path, base: Path, output: Path, cache: Path) -> tuple[float, str]:
    """Train for an epoch. Returns the seconds and the log."""
    good = args.images - 2 * (args.images // EVERY)
    options = {
        "pretrained_model_name_or_path": base,
        "instance_data_dir": folder,
        "output_dir": output,
        "cache_dir": cache,
        "resolution": 16,
        "aspect_ratio_buckets": "auto",
        "num_train_epochs": 1,
        "train_batch_size": args.batch_size,
        "checkpointing_steps": -(-good // args.batch_size),
        "dataloader_num_workers": args.num_workers,
        "max_sequence_length": 2,
        "rank": 2,
    }
    script = ROOT / "examples" / "train_twinflow.py"
    command = [sys.executable, str(script), *(f"--{name}={value}" for name, value in options.items())]
    start = time.perf_counter()
    run = subprocess.run([*command, "--twinflow_enabled", "--random_flip", "--no-center_crop"], stderr=subprocess.PIPE)
    log = run.stderr.decode()
    if run.returncode:
        raise SystemExit(log[-3000:])
    return time.perf_counter() - start, log


if __name__ == "__main__":
    main()
