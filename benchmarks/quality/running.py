"""Train and score the variants, several at once per device, and save each result as soon as it is there."""

import json
import queue
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .launching import SCRIPT, plain_command, run_logged, training_command, training_progress
from .settings import Settings
from .variants import ABLATION_SCRIPT, Variant, variant_options

RESERVE_SECONDS = 70
"""Seconds to start the script, save and score."""
SPARE = 1.2
"""Factor of the expected time that must be left to start a variant. A shortened run would not reach the end of its schedule."""


def trained_folder(work_dir: Path, variant: Variant) -> Path:
    return work_dir / "variants" / variant.name


@dataclass
class Runner:
    """
    Attributes:
        score: takes a variant, its number of training steps and a device, and returns rows.
        deadline: time by `time.monotonic()`. Training ends early enough to score before it.
    """

    base: Path
    data_dir: Path
    work_dir: Path
    settings: Settings
    score: Callable[[Variant, int, str | None], list[dict]]
    deadline: float
    bf16: bool
    keep_weights: bool = False

    def __post_init__(self):
        self.seconds_per_step = 0.0  # of the last variant that ended, including its start

    def run_all(self, variants: tuple[Variant, ...], gpus: list[str], jobs_per_gpu: int) -> list[dict]:
        """Return every variant's result, also if it failed or did not start. Results on disk are used again."""
        waiting: queue.SimpleQueue[Variant] = queue.SimpleQueue()
        for variant in variants:
            waiting.put(variant)
        slots = [gpu for _ in range(jobs_per_gpu) for gpu in (gpus or [None])]
        threads = [threading.Thread(target=self._work, args=(waiting, gpu)) for gpu in slots[: len(variants)]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [self._read(variant) for variant in variants]

    def result_path(self, variant: Variant) -> Path:
        return self.work_dir / "results" / f"{variant.name}.json"

    def _read(self, variant: Variant) -> dict:
        return json.loads(self.result_path(variant).read_text(encoding="utf-8"))

    def _work(self, waiting: queue.SimpleQueue, gpu: str | None) -> None:
        while True:
            try:
                variant = waiting.get_nowait()
            except queue.Empty:
                return
            path = self.result_path(variant)
            if path.is_file() and self._read(variant)["state"] == "done":
                continue
            self._run(variant, gpu)

    def _run(self, variant: Variant, gpu: str | None) -> None:
        """Train and score one variant. An error becomes its result."""
        result = {"name": variant.name, "question": variant.question, "state": "not begun", "rows": []}
        start = time.monotonic()
        self._save(variant, result)
        minutes = (self.deadline - start - RESERVE_SECONDS) / 60
        if minutes <= SPARE * self.seconds_per_step * variant.steps(self.settings) / 60:
            result["state"] = "not begun: no time left"
            self._save(variant, result)
            return
        try:
            steps = self._train(variant, minutes, gpu, result)
            result["rows"] = self.score(variant, steps, gpu)
            result["state"] = "done"
        except Exception:
            result |= {"state": "failed", "error": traceback.format_exc()}
            print(f"FAILED {variant.name}: {result['error'][-3000:]}", flush=True)
        result["seconds"] = time.monotonic() - start
        self._save(variant, result)
        if not self.keep_weights:
            shutil.rmtree(trained_folder(self.work_dir, variant), ignore_errors=True)
        print(f"{variant.name}: {result['state']} after {result['seconds']:.0f} s", flush=True)

    def _train(self, variant: Variant, minutes: float, gpu: str | None, result: dict) -> int:
        """Train a variant. Returns its number of steps."""
        options = variant_options(
            variant, self.base, self.data_dir, trained_folder(self.work_dir, variant), self.settings,
            minutes=minutes, bf16=self.bf16,
        )  # fmt: skip
        command = training_command(options | variant.ablated, script=ABLATION_SCRIPT if variant.ablated else SCRIPT)
        result |= {"command": plain_command(command), "options": options, "state": "training"}
        log = self.work_dir / "logs" / f"{variant.name}.log"
        seconds = run_logged(command, log, gpus=None if gpu is None else [gpu], deadline=self.deadline)
        steps, training = training_progress(log)
        self.seconds_per_step = seconds / max(1, steps)
        result["training"] = {"steps": steps, "seconds": seconds, "seconds_per_step": training / max(1, steps)}
        return steps

    def _save(self, variant: Variant, result: dict) -> None:
        path = self.result_path(variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".unfinished")
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        aside.replace(path)
