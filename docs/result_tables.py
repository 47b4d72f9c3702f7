"""Tables of measurements in README.md and docs/, from the files in benchmarks/results.

Run it to write the pages anew: `python docs/result_tables.py`.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from statistics import fmean

from marked_parts import fill, names_of, table
from variant_changes import CHANGES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FULL, LORA = "full-longest", "lora-all-linears-half-longer"
LABELS = {FULL: "TwinFlow, full weights", LORA: "TwinFlow, LoRA of rank 64"}
SAMPLERS = {"TwinFlow multi": "`TwinFlowScheduler`, multi", "DDIM": "`DDIMScheduler`"}

Cells = list[str]


@cache
def results(name: str) -> dict:
    """One file of benchmarks/results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def range_of(seconds: list[float], digits: int = 3) -> str:
    return f"{min(seconds):.{digits}f} to {max(seconds):.{digits}f}"


# The digits of `make demo`


def digits() -> str:
    report = results("digits_demo")
    real, seconds = report["real_digits"], report["seconds"]
    rows = [["real digits, held out", "-", f"{real['frechet_distance']:.1f}", f"{real['agreement']:.1%}"]]
    for column in report["columns"]:
        distance, agreement = f"{column['frechet_distance']:.1f}", f"{column['agreement']:.1%}"
        rows.append([column["name"], str(column["evaluations"]), distance, agreement])
    shown = table(["", "evaluations", "Fréchet distance", "matches the prompt"], rows)
    cores, samples = report["cpu_cores"], report["settings"]["num_samples"]
    return (
        f"{shown}\n\n{samples:,} samples per row. On {cores} CPU cores, training took {seconds['training'] / 60:.1f} "
        f"minutes, and the whole demo {seconds['total'] / 60:.1f}."
    )


# The emoji: docs/quality.md


def of_few_steps(variant: dict, style: str = "few") -> dict[int, dict]:
    """The scores of a variant by number of steps."""
    return {row["steps"]: row for row in variant["rows"] if row["style"] == style}


def variants(report: str) -> dict[str, dict]:
    return {variant["name"]: variant for variant in results(report)["variants"]}


def score(label: str, row: dict) -> Cells:
    agreement = f"{row['agreement']:.1%}"
    held_out = f"{row['held_out_agreement']:.1%}" if "held_out_agreement" in row else "-"
    distance, diversity = f"{row['frechet_distance']:.1f}", f"{row['diversity']:.1f}"
    return [label, str(row["evaluations"]), distance, agreement, held_out, diversity]


SCORES = ["", "evaluations", "Fréchet distance", "matches the prompt", "held-out prompts", "diversity"]


def base_label(row: dict) -> str:
    steps = "1 step" if row["steps"] == 1 else f"{row['steps']} steps"
    return f"base, {row['scheduler']}, {steps}, guidance {row['guidance_scale']:g}"


def emoji() -> str:
    report, found = results("quality"), variants("quality")
    rows = [score("base, 50 steps with guidance", report["reference"])]
    for evaluations in (8, 2):
        row = min(
            (row for row in report["base"] if row["evaluations"] == evaluations), key=lambda r: r["frechet_distance"]
        )
        rows.append(score(f"base, best diffusers scheduler ({row['scheduler']})", row))
    for name in (FULL, LORA):
        few = of_few_steps(found[name])
        rows += [score(f"{LABELS[name]}, {steps} step{'s' * (steps > 1)}", few[steps]) for steps in (1, 2)]
    return table(SCORES, rows)


def emoji_summary() -> str:
    """The base at its best and at two evaluations, and the LoRA: the table of the README."""
    report, found = results("quality"), variants("quality")
    two = min((row for row in report["base"] if row["evaluations"] == 2), key=lambda row: row["frechet_distance"])
    rows = [
        ("base, 50 steps with guidance", report["reference"]),
        (f"base, best diffusers scheduler ({two['scheduler']})", two),
        *((f"{LABELS[LORA]}, {steps} step{'s' * (steps > 1)}", of_few_steps(found[LORA])[steps]) for steps in (1, 2)),
    ]
    return table(SCORES[:5], [score(label, row)[:5] for label, row in rows])


def emoji_scores() -> str:
    report, found = results("quality"), variants("quality")
    shown = [
        row
        for row in report["base"]
        if (row["scheduler"], row["steps"]) == ("FlowMatchEuler", 50)
        or (row["steps"] < 50 and (row["scheduler"], row["guidance_scale"]) == ("FlowMatchEuler", 3))
        or (row["steps"] < 50 and row["scheduler"] == "UniPC" and row["guidance_scale"] in (1, 3))
    ]
    rows = [score(base_label(row), row) for row in shown]
    for name in (FULL, LORA):
        for style in ("few", "any"):
            for steps, row in of_few_steps(found[name], style).items():
                if style == "few" or steps > 1:
                    label = f"{LABELS[name]}, {steps} step{'s' * (steps > 1)}"
                    rows.append(score(label + ", style any" * (style == "any"), row))
    return table(SCORES, rows)


RECOMMENDED = {
    "LoRA of rank 64": ("lora-recommended", "lora-recommended-seed-1", "lora-recommended-seed-2"),
    "LoRA of rank 64, batch size 1,024": (
        "lora-recommended-1024",
        "lora-recommended-1024-seed-1",
        "lora-recommended-1024-seed-2",
    ),
    "the same, with images that the base generated": ("lora-recommended-own-samples",),
    "full weights": ("full-recommended",),
}


STYLES_TO_SHOW = {"few": "", "any": ", style any", "stock pipeline": ", in a stock pipeline"}


def recommended(name: str) -> str:
    """The recommended recipe: means over seeds, with the least and the largest distance."""
    report, found = results(name), variants(name)
    base = report["reference"]
    rows = [["base, 100 evaluations", "-", "-", *score("", base)[2:], "1.00"]]
    for label, names in RECOMMENDED.items():
        trained = [found[name] for name in names if found.get(name, {}).get("rows")]
        for style in STYLES_TO_SHOW if len(names) > 1 else ("few",):
            for steps in (2, 4) if style == "any" else (1, 2, 4):
                scored = [rows_of[steps] for each in trained if steps in (rows_of := of_few_steps(each, style))]
                if scored:
                    rows.append(recommended_row(label, style, steps, trained, scored, base))
    headers = ["", "steps of training", "steps", *SCORES[2:], "base = 1"]
    return table(headers, rows)


def recommended_row(
    label: str, style: str, steps: int, trained: list[dict], scored: list[dict], base: dict
) -> list[str]:
    names = ("frechet_distance", "agreement", "held_out_agreement", "diversity")
    means = {name: fmean(row[name] for row in scored) for name in names if all(name in row for row in scored)}
    cells = score("", means | {"evaluations": steps})[2:]
    if len(scored) > 1:
        label += f", {len(scored)} seeds"
        cells[0] += f" ({range_of([row['frechet_distance'] for row in scored], 1)})"
    label += STYLES_TO_SHOW[style]
    of_training = f"{min(each['training']['steps'] for each in trained):,}"
    return [label, of_training, str(steps), *cells, f"{means['frechet_distance'] / base['frechet_distance']:.2f}"]


AIMS = (
    ("full weights, 1 step", (1,), False, None, 1.15),
    ("full weights, 2 steps", (2,), False, None, 1.0),
    ("LoRA of rank 64, 1 and 2 steps", (1, 2), True, None, 1.25),
    ("LoRA of rank 64, 1 and 2 steps", (1, 2), True, "full weights", 1.25),
)


def aims(report: str, full: str, lora: str) -> str:
    """Fréchet distances as ratios to the base at 100 evaluations, or to the full weights, and the targets."""
    found, base = variants(report), results(report)["reference"]["frechet_distance"]
    rows = []
    for label, all_steps, is_lora, against, bound in AIMS:
        mine, others = (of_few_steps(found[name]) for name in (lora if is_lora else full, full))
        ratios = [
            mine[k]["frechet_distance"] / (others[k]["frechet_distance"] if against else base) for k in all_steps
        ]
        reached = "yes" if max(ratios) <= bound else "no"
        of = against or "base, 100 evaluations"
        rows.append([label, of, f"{bound:g}", " and ".join(f"{ratio:.2f}" for ratio in ratios), reached])
    return table(["", "compared with", "at most", "measured", "reached"], rows)


def first_variants() -> str:
    rows = []
    for name, variant in variants("quality_first").items():
        few, any_ = of_few_steps(variant), of_few_steps(variant, "any")
        distances = [f"{few[steps]['frechet_distance']:.1f}" for steps in (1, 2, 4)]
        steps, rate = f"{variant['training']['steps']:,}", f"{variant['options']['learning_rate']:g}"
        rows.append([f"`{name}`", steps, rate, *distances, f"{any_[2]['frechet_distance']:.1f}"])
    rows.sort(key=lambda cells: float(cells[4]))
    return table(["variant", "training steps", "learning rate", "1 step", "2 steps", "4 steps", "2 steps, any"], rows)


def is_control(name: str) -> bool:
    return name.startswith("base-continued")


def recipe_variants() -> str:
    rows = []
    for name, variant in variants("quality_ablations").items():
        if is_control(name):
            continue
        few, any_ = of_few_steps(variant), of_few_steps(variant, "any")
        found = [*(few[steps] for steps in (1, 2, 4)), *(any_[steps] for steps in (2, 4))]
        distances = [f"{row['frechet_distance']:.1f}" for row in found]
        steps, diversity = f"{variant['training']['steps']:,}", f"{few[2]['diversity']:.1f}"
        rows.append([f"`{name}`", CHANGES[name], steps, *distances, diversity])
    rows.sort(key=lambda cells: float(cells[4]))
    header = ["variant", "what it changes", "training steps", "1 step", "2 steps", "4 steps", "2 steps, any"]
    return table([*header, "4 steps, any", "diversity, 2 steps"], rows)


def continued_base() -> str:
    report, found = results("quality_ablations"), variants("quality_ablations")
    cases = [("none: the base", "-", report["reference"])]
    cases += [
        (f"`{name}`", f"{variant['training']['steps']:,}", variant["rows"][0])
        for name, variant in found.items()
        if is_control(name)
    ]
    header = ["more flow matching", "training steps", *SCORES[2:]]
    return table(header, ([label, steps, *score("", row)[2:]] for label, steps, row in cases))


# Speed and memory: docs/benchmarks.md


def step_cost() -> str:
    rows = []
    for train_type, label in (("lora", "LoRA, rank 64"), ("full", "full weights")):
        found = {row["name"]: row for row in results(f"training_engine_{train_type}")["rows"]}
        plain, engine, compiled = (found[name]["seconds"] for name in ("plain", "engine", "engine, compiled"))
        flow, flow_compiled = (found[name] for name in ("flow matching", "flow matching, compiled"))
        peaks = [found[name]["peak_gigabytes"] for name in ("engine", "engine, compiled")]
        ratios = [engine / flow["seconds"], compiled / flow_compiled["seconds"], plain / engine, plain / compiled]
        memory = [peaks[0] / flow["peak_gigabytes"], peaks[1] / flow_compiled["peak_gigabytes"]]
        rows.append([label, *(f"{ratio:.2f}" for ratio in (*ratios, *memory))])
    header = ["", "time, flow matching = 1", "both compiled", "times faster than plain", "compiled against plain"]
    return table([*header, "peak memory, flow matching = 1", "both compiled"], rows)


def merged_cost() -> str:
    """A LoRA step on merged weights and with PEFT's layers, beside a step of full weights."""
    full, lora = (
        {row["name"]: row for row in results(f"training_merged_{train_type}")["rows"]}
        for train_type in ("full", "lora")
    )
    kinds = (
        ("full weights", full, ""),
        ("LoRA, rank 64", lora, ""),
        ("the same LoRA, not merged", lora, ", unmerged"),
    )
    rows = []
    for label, found, ending in kinds:
        row, compiled = found[f"engine{ending}"], found.get(f"engine{ending}, compiled")
        times = [f"{row['seconds']:.3f}", f"{row['seconds'] / full['engine']['seconds']:.2f}"]
        if compiled:
            ratio = compiled["seconds"] / full["engine, compiled"]["seconds"]
            times += [f"{compiled['seconds']:.3f}", f"{ratio:.2f}", f"{compiled['compile_seconds']:.0f}"]
        else:
            times += ["-", "-", "-"]
        flow = found[f"flow matching{ending}"]
        rows.append([label, *times, f"{flow['seconds']:.3f}", f"{row['peak_gigabytes']:.1f}"])
    header = [
        "",
        "seconds per step",
        "full weights = 1",
        "compiled, s",
        "full weights = 1",
        "compile s",
        "flow matching, s",
        "peak GiB",
    ]
    return table(header, rows)


def small_batches() -> str:
    """Steps of four samples, without and with CUDA graphs, beside the time in which the GPU is busy."""
    rows = []
    steps = [row for row in results("small_batches")["rows"] if "way" in row and not row["compiled"]]
    for row in sorted(steps, key=lambda row: (row["resolution"], row["way"] != "lora", row["cuda_graphs"])):
        how = "CUDA graphs" if row["cuda_graphs"] else "eager"
        busy = row["device_busy_seconds"] / row["profiled_steps"]
        seconds = f"{row['seconds']:.3f}", range_of(row["all_seconds"]), f"{busy:.3f}", f"{row['seconds'] / busy:.2f}"
        rows.append([row["name"], str(row["resolution"]), how, *seconds, f"{row['peak_gib']:.1f}"])
    header = ["", "pixels", "how", "seconds per step", "fastest to slowest", "GPU busy, s", "GPU busy = 1", "peak GiB"]
    return table(header, rows)


def replay_exactness() -> str:
    """How far gradients and losses of replayed passes are from those of ordinary ones."""
    rows = []
    for row in results("small_batches")["rows"]:
        if "gradient_difference" in row:
            precision = "float32" if row["mixed_precision"] == "no" else row["mixed_precision"]
            equal = f"{row['equal_parameters']} of {row['parameters']}"
            rows.append(
                [row["name"], precision, equal, f"{row['gradient_difference']:.1e}", f"{row['loss_difference']:.1e}"]
            )
    return table(["", "precision", "equal gradients", "largest difference", "of the losses"], rows)


def compile_time() -> str:
    """Seconds of compilation before the first step, of this version and of the one before it."""
    found = {row["part"]: row for row in results("compile_starts")["rows"]}
    rows = []
    for part, row in found.items():
        if part + "_before" in found:
            phases, cache = row["compile_phases"], "empty" if part.endswith("_first") else "filled"
            autograd = phases.get("aot_trace_joint_graph", 0) + phases.get("aot_collect_metadata", 0)
            parts = phases["bytecode_tracing"], autograd, phases.get("compile_fx_inner", 0)
            seconds = row["compile_seconds"], found[part + "_before"]["compile_seconds"], *parts
            rows.append([row["name"], cache, str(row["graphs"]), *(f"{value:.0f}" for value in seconds)])
    return table(["", "cache", "graphs", "compile s", "before", "dynamo", "autograd graphs", "inductor"], rows)


def engine(train_type: str) -> str:
    found = {row["name"]: row for row in results(f"training_engine_{train_type}")["rows"]}
    base, plain = found["flow matching"], found["plain"]
    rows = []
    for name, row in found.items():
        seconds = f"{row['seconds']:.3f}", f"{row['fastest']:.3f} to {row['slowest']:.3f}"
        times = f"{row['seconds'] / base['seconds']:.2f}", f"{plain['seconds'] / row['seconds']:.2f}"
        memory = f"{row['peak_gigabytes']:.2f}", f"{row['peak_gigabytes'] / base['peak_gigabytes']:.3f}"
        compiling = [f"{row['compile_seconds']:.0f}", str(row["graphs"])] if "graphs" in row else ["-", "-"]
        rows.append([name, *seconds, *times, *memory, *compiling])
    label = {"full": "full weights", "lora": "LoRA, rank 64"}[train_type]
    header = [label, "seconds per step", "fastest to slowest", "flow matching = 1", "times faster than plain"]
    return table([*header, "peak GiB", "peak, flow matching = 1", "compile s", "graphs"], rows)


def call_of(row: dict) -> tuple:
    """What was called; files written before there were settings have single images that are not compiled."""
    return row["way"], row["steps"], row.get("batch", 1), row.get("compiled", False), row.get("graphs", False)


def calls(report: str, model: str) -> tuple[dict[tuple, dict], dict[tuple, float]]:
    """The rows of latency of a model, and how many times faster than 28 stock steps each is."""
    found = results(report)
    rows = (row for row in found["rows"] if row.get("part") == "latency" and row["model"] == model and "way" in row)
    speedups = (row for row in found["speedups"] if row["model"] == model and row["stock_steps"] == 28)
    return (
        {call_of(row): row for row in rows if row.get("what", "denoising") == "denoising"},
        {call_of(row): row["times_faster"] for row in speedups},
    )


def latency(report: str, model: str) -> str:
    found, speedups = calls(report, model)
    rows = []
    for key, row in found.items():
        way, steps, batch, is_compiled, has_graphs = key
        how = "CUDA graphs" if has_graphs else "compiled blocks" if is_compiled else "eager"
        times = "-" if way == "stock" else f"{speedups[key]:.1f}"
        seconds = f"{row['seconds']:.3f}", range_of(row["all_seconds"])
        rows.append([way, str(steps), str(batch), how, *seconds, times, f"{row['peak_gib']:.2f}"])
    header = [f"{model}", "steps", "images per call", "how", "seconds", "fastest to slowest"]
    return table([*header, "times faster than 28 stock steps", "peak GiB"], rows)


def merged_lora() -> str:
    report = results("merged_lora")["rows"]
    loading = {row["way"]: row for row in report if row["part"] == "loading"}
    rows = []
    for row in report:
        if row["part"] == "latency":
            timed = f"{row['seconds']:.3f}", range_of(row["all_seconds"]), f"{row['times_stock']:.2f}"
            compiled = "yes" if row["compiled"] else "no"
            rows.append([row["way"], compiled, *timed, f"{loading[row['way']]['device_gib']:.2f}"])
    return table(["2 steps", "compiled", "seconds", "fastest to slowest", "stock = 1", "GPU memory, GiB"], rows)


def call_overhead() -> str:
    shared = ("call", "transformer", "scheduler", "outside_steps", "finding_the_device")
    ours = ("twinflow_pipeline", "target_times", "conditioning")
    rows = []
    for row in results("call_overhead_cpu")["rows"]:
        own = ["-" if row["way"] == "stock" else f"{row[f'{name}_ms']:.2f}" for name in ours]
        rows.append([row["way"], *(f"{row[f'{name}_ms']:.2f}" for name in shared), *own])
    header = ["ms on a CPU", "call", "transformer", "scheduler", "everything else", "of it `_execution_device`"]
    return table([*header, "`TwinFlowPipeline`", "target times", "time conditioning"], rows)


def training(report: str, resolution: int) -> str:
    rows = []
    for row in results(report)["rows"]:
        if row["part"] == "training" and row["resolution"] == resolution:
            seconds = f"{row['seconds']:.3f}", range_of(row["all_seconds"])
            memory = f"{row['samples_per_second']:.2f}", f"{row['peak_gib']:.1f}"
            rows.append([row["way"], *seconds, *memory, f"{row['trained_parameters'] / 1e6:.1f}"])
    header = [f"{resolution} pixels", "seconds per step", "fastest to slowest", "samples per second", "peak GiB"]
    return table([*header, "trained parameters, millions"], rows)


def real_size() -> str:
    rows = []
    for row in results("real_size")["rows"] + results("real_size_qwen")["rows"]:
        branches = row["seconds_by_branches"].values()
        by_branch = f"{min(branches):.2f} to {max(branches):.2f}" if len(branches) > 1 else "-"
        size = f"{row['parameters'] / 1e9:.1f}", row["quantize_base"] or "bf16", str(row["resolution"])
        timed = str(row["batch"]), str(row["runs"]), f"{row['seconds']:.2f}", by_branch
        rows.append([row["model"], *size, *timed, f"{row['base_gib']:.1f}", f"{row['peak_gib']:.1f}"])
    header = ["model", "parameters, billions", "base", "pixels", "batch", "steps timed", "seconds per step"]
    return table([*header, "by branch", "base, GiB", "peak GiB"], rows)


def two_gpus() -> str:
    found = {row["part"]: row for row in results("several_gpus")["rows"]}
    rows = []
    for train_type, label in (("lora", "LoRA"), ("full", "full weights")):
        one = found[f"{train_type}_one"]
        for kind in ("one", "ddp", "fsdp2"):
            row = found.get(f"{train_type}_{kind}")
            if row is not None:
                seconds = f"{row['seconds']:.2f}", range_of(row["all_seconds"], 2)
                speed = (
                    f"{row['samples_per_second']:.2f}",
                    f"{row['samples_per_second'] / one['samples_per_second']:.2f}",
                )
                memory = f"{row['peak_gib']:.1f}", f"{row['peak_gib'] / one['peak_gib']:.2f}"
                rows.append([label, "one GPU" if kind == "one" else f"two, {kind}.yaml", *seconds, *speed, *memory])
    header = ["trained", "on", "seconds per step", "fastest to slowest", "samples per second", "one GPU = 1"]
    return table([*header, "peak GiB per GPU", "one GPU = 1"], rows)


# The bridge to diffusion models: docs/diff2flow.md


SHOWN_SCHEDULES = (
    ("Stable Diffusion", "epsilon", 5.0),
    ("Stable Diffusion", "v_prediction", 1.0),
    ("linear", "epsilon", 1.0),
)


def convergence() -> str:
    rows, steps = [], []
    for row in results("diff2flow_convergence")["rows"]:
        is_shown = (row["schedule"], row["prediction_type"], row["guidance"]) in SHOWN_SCHEDULES
        if is_shown and row["way"] in SAMPLERS:
            steps = list(row["relative_error"])
            setting = f"{row['schedule']}, {row['prediction_type']}, {row['guidance']:g}"
            rows.append([setting, SAMPLERS[row["way"]], *(f"{error:.4f}" for error in row["relative_error"].values())])
    rows.sort(key=lambda cells: (cells[0], "DDIM" in cells[1]))
    return table(["schedule, prediction, guidance", "sampler", *(f"{n} steps" for n in steps)], rows)


BASE_COLUMNS = {
    "base, `DDIMScheduler`": ["base, 1 steps", "base, 2 steps", "base, 4 steps", "base, guidance 1"],
    "base, `TwinFlowScheduler`, multi": [None, None, None, "base, bridged"],
    "base, guidance 1.25": [None, None, None, "base, guidance 1.25"],
    "base, guidance 2": [None, None, None, "base, guidance 2"],
}
EPSILON_VARIANTS = {
    "LoRA, 5e-5": "lora_5e-5",
    "LoRA, 2e-4": "lora_2e-4",
    "LoRA, 5e-4": "lora_5e-4",
    "full weights, 1e-4": "full_1e-4",
}


def diffusion_digits() -> str:
    report = results("epsilon_sweep")
    columns = {column["name"]: column for column in report["parts"]["base"]["columns"]}

    def shown(column: dict | None) -> str:
        return "-" if column is None else f"{column['frechet_distance']:.1f} ({column['agreement']:.1%})"

    rows = [["digits, held out", "-", "-", "-", "-", shown(columns["real test digits"])]]
    for label, names in BASE_COLUMNS.items():
        rows.append([label, str(report["base"]["steps"]), *(shown(columns.get(name)) for name in names)])
    for label, name in EPSILON_VARIANTS.items():
        part = report["parts"][name]
        rows.append([label, str(part["training"]["steps"]), *map(shown, part["columns"]), "-"])
    return table(["", "training steps", "1 step", "2 steps", "4 steps", "50 steps"], rows)


# Guidance: docs/method.md


def guidance_in_the_plane() -> str:
    rows = []
    for row in results("guidance")["rows"]:
        if row["way"] == "distilled" and (row["evaluations"] != 50 or row["ratio"] == 0):
            continue
        label = "base"
        if row["way"] == "distilled":
            label = f"distilled, ratio {row['ratio']:g}, {row['empty_prompts']:.0%} empty prompts"
        rows.append([label, f"{row['guidance']:g}", f"{row['radius']:.3f}", f"{row['diversity']:.3f}"])
    return table(["50 steps in the plane", "guidance", "radius", "diversity"], rows)


# Runs that diverge: docs/troubleshooting.md


def stability() -> str:
    rows = []
    for row in results("stability_digits")["rows"]:
        (rate,) = (option.split("=")[1] for option in row["options"] if option.startswith("--learning_rate"))
        largest = f"{row['largest_loss']:.1f}", f"{row['largest_rms']:.1f}"
        rows.append([row["run"], rate, str(row["steps"]), *largest])
    return table(["run", "learning rate", "steps", "largest loss", "largest rms"], rows)


# Schedules at equal steps: docs/recipes.md


def schedules() -> str:
    rows = []
    for row in results("schedules_digits")["rows"]:
        distances = (f"{row['scores'][steps]['frechet_distance']:.1f}" for steps in ("1", "2"))
        rows.append([row["schedule"], str(row["seed"]), str(row["options"]["max_train_steps"]), *distances])
    return table(["schedule", "seed", "training steps", "1 step", "2 steps"], rows)


# Ways to train a few-step model on new images: docs/recipes.md


def few_step_base() -> str:
    rows = []
    for row in results("few_step_base_digits")["rows"]:
        scores = [row["scores"][steps] for steps in ("1", "2", "4")]
        distances = (f"{each['frechet_distance']:.0f}" for each in scores)
        rows.append([row["name"], row["start"], *distances, f"{scores[-1]['agreement']:.2f}"])
    return table(["training", "starts from", "1 step", "2 steps", "4 steps", "agreement at 4 steps"], rows)


# Real latents: docs/latent.md


LATENT_WAYS = {
    "drawings": "real drawings",
    "autoencoder": "real drawings through the autoencoder",
    "base": "base",
    "base-FlowMatchEuler": "base, `FlowMatchEulerDiscreteScheduler`",
    "base-UniPC": "base, `UniPCMultistepScheduler`",
    "full": "TwinFlow, full weights",
    "full-any": "TwinFlow, full weights, style `any`",
    "lora": "TwinFlow, LoRA of rank 64",
    "lora-any": "TwinFlow, LoRA of rank 64, style `any`",
    "authors": "authors' code, full weights",
    "authors_lora": "authors' code, LoRA of rank 64",
    "mean_flow": "MeanFlow, full weights",
    "mean_flow_slow": "MeanFlow, full weights, learning rate 1e-4",
    "full_half": "full weights, half of the time",
}
LATENT_COMPARED = (
    "full", "full-any", "lora", "lora-any", "authors", "authors_lora", "mean_flow", "mean_flow_slow",
)  # fmt: skip
LATENT_GROWTH = (
    "full_quarter", "full_half", "full", "full_double", "lora_half", "lora", "lora_double", "full_small_batch",
    "full_large_batch",
)  # fmt: skip
LATENT_IMAGES = {
    "ours.jpg": "Drawings, the base in many steps, and TwinFlow in 1, 2 and 4 steps",
    "1.jpg": "All ways in 1 step",
    "2.jpg": "All ways in 2 steps",
}
LATENT_SHARES = {"group_agreement": "right group", "known_caption_agreement": "names, matches the name"}
LATENT_AIMS = (
    ("full weights", "full", ((1, 1.0), (2, 0.9))),
    ("LoRA", "lora", ((1, 1.15), (2, 1.0))),
)


def of_latent(content: Callable[[dict], str], name: str = "latent") -> str:
    """A part of docs/latent.md."""
    return content(results(name))


def latent_rows(report: dict) -> dict[tuple, dict]:
    return {(row["way"], row["steps"]): row for row in report["rows"]}


def latent_scores(report: dict) -> str:
    """Scores of all ways; looks are ratios to the real drawings, diversity to the base."""
    found = latent_rows(report)
    real = found["drawings", None]["scores"]
    base = next(row["scores"] for (way, _), row in found.items() if way == "base")
    names = ["drawings", "autoencoder", "base", "base-FlowMatchEuler", "base-UniPC", *LATENT_COMPARED]
    rows = []
    for name in names:
        for (way, steps), row in found.items():
            if way == name and steps != 8:
                scores = row["scores"]
                cells = [f"{scores['fid']:.2f}", f"{scores['fid'] / base['fid']:.2f}"]
                cells += [f"{scores[key]:.1%}" for key in LATENT_SHARES]
                cells += [f"{scores[key] / real[key]:.2f}" for key in ("sharpness", "saturation")]
                cells.append(f"{scores['diversity'] / base['diversity']:.2f}")
                rows.append([LATENT_WAYS[way], str(row["evaluations"] or "-"), *cells])
    header = ["", "evaluations", "Fréchet distance", "base = 1", *LATENT_SHARES.values()]
    return table([*header, "sharpness, drawings = 1", "saturation, drawings = 1", "diversity, base = 1"], rows)


def latent_aims(report: dict) -> str:
    """Fréchet distances as ratios to the base in many steps, and the targets."""
    found, rows = latent_rows(report), []
    (base,) = (row for row in report["rows"] if row["way"] == "base")
    for label, way, bounds in LATENT_AIMS:
        for steps, bound in bounds:
            if (way, steps) in found:
                ratio = found[way, steps]["scores"]["fid"] / base["scores"]["fid"]
                reached = "yes" if ratio <= bound else "no"
                rows.append([label, str(steps), f"{bound:g}", f"{ratio:.2f}", reached])
    return table(["", "steps", f"at most, base at {base['evaluations']} evaluations = 1", "measured", "reached"], rows)


def latent_training(report: dict) -> str:
    rows = []
    for name in (name for name in LATENT_WAYS if name in report["ways"]):
        way = report["ways"][name]
        usage = way["usage"]
        memory = "-" if usage["peak_gib"] is None else f"{usage['peak_gib']:.1f}"
        minutes, batch = f"{way['minutes']:g}", str(way["batch_size"])
        speed = f"{usage['steps']:,}", f"{usage['seconds_per_step']:.3f}", f"{usage['start_seconds']:.0f}"
        rate = f"{way['learning_rate']:g}"
        rows.append([LATENT_WAYS[name], minutes, batch, rate, *speed, memory, str(way["lines_of_configuration"])])
    header = ["", "minutes", "batch size", "learning rate", "steps", "seconds per step", "start, s", "peak GiB"]
    return table([*header, "options"], rows)


def latent_growth(report: dict) -> str:
    """What longer runs and other batch sizes give; distances are ratios to the base in many steps."""
    found, rows = latent_rows(report), []
    (base,) = (row for row in report["rows"] if row["way"] == "base")
    for name in LATENT_GROWTH:
        if all((name, steps) in found for steps in (1, 2, 4)):
            way, scores = report["ways"][name], [found[name, steps]["scores"] for steps in (1, 2, 4)]
            ratios = (f"{each['fid'] / base['scores']['fid']:.2f}" for each in scores)
            steps = way["usage"]["steps"]
            counts = f"{way['minutes']:g}", f"{way['batch_size']:,}", f"{steps:,}", f"{steps * way['batch_size']:,}"
            rows.append([way_type(name), *counts, *ratios, f"{scores[0]['known_caption_agreement']:.1%}"])
    header = ["", "minutes", "batch size", "steps", "samples", "1 step", "2 steps", "4 steps"]
    return table([*header, "names at 1 step"], rows)


def way_type(name: str) -> str:
    return "LoRA" if name.startswith("lora") else "full weights"


def latent_growth_setting(report: dict) -> str:
    (base,) = (row for row in report["rows"] if row["way"] == "base")
    trained = report["base"]
    return (
        f"Distances are ratios to the base's at {base['evaluations']} evaluations, which is {base['scores']['fid']:.2f}. This base "
        f"was trained for {trained['steps']:,} steps in {trained['seconds'] / 60:.1f} minutes."
    )


def latent_setting(report: dict) -> str:
    base, settings = report["base"], report["settings"]
    scan = ", ".join(f"{scale} gives {distance:.2f}" for scale, distance in report["guidance_scan"].items())
    parts = [
        f"One {report['machine']}, torch {report['versions']['torch']}, bf16.",
        f"{report['drawings']:,} drawings in {report['groups']} groups.",
        f"The autoencoder reconstructs them with a peak signal-to-noise ratio of {report['psnr']:.1f} dB.",
        f"The base has {report['parameters'] / 1e6:.0f} million parameters and was trained for "
        f"{base['steps']:,} steps of {settings['base_batch_size']} samples in {base['seconds'] / 60:.1f} minutes.",
        f"Its guidance scale is {report['guidance']:g}, by the Fréchet distance: {scan}.",
    ]
    return "\n".join(f"- {part}" for part in parts)


def latent_images() -> str:
    return "\n\n".join(f"![{text}](images/latent_{part})" for part, text in LATENT_IMAGES.items())


LATENT_PARTS: dict[str, Callable[[dict], str]] = {
    "setting": latent_setting,
    "scores": latent_scores,
    "aims": latent_aims,
    "training": latent_training,
}
LATENT_GROWTH_PARTS: dict[str, Callable[[dict], str]] = {
    "growth": latent_growth,
    "growth setting": latent_growth_setting,
}

TABLES: dict[str, Callable[[], str]] = {
    "digits": digits,
    "emoji": emoji,
    "emoji summary": emoji_summary,
    "emoji scores": emoji_scores,
    "emoji aims": partial(aims, "quality", FULL, LORA),
    "recommended recipe": partial(recommended, "quality_recommended"),
    "recommended recipe short": partial(recommended, "quality_recommended_short"),
    "recommended recipe large": partial(recommended, "quality_recommended_large"),
    "first variants": first_variants,
    "first aims": partial(aims, "quality_first", "full-longer", "lora-longer"),
    "recipe variants": recipe_variants,
    "recipe aims": partial(aims, "quality_ablations", "full-longer", "lora-all-linears-longer"),
    "continued base": continued_base,
    "step cost": step_cost,
    "merged cost": merged_cost,
    "engine full": partial(engine, "full"),
    "engine lora": partial(engine, "lora"),
    "latency SD3": partial(latency, "latency", "SD3.5-medium"),
    "latency FLUX": partial(latency, "latency", "FLUX.1-dev"),
    "latency graphs": partial(latency, "latency_graphs", "SD3.5-medium"),
    "merged LoRA": merged_lora,
    "call overhead": call_overhead,
    "training 1024": partial(training, "speed", 1024),
    "small batches": small_batches,
    "replay exactness": replay_exactness,
    "compile time": compile_time,
    "training 512": partial(training, "training_512", 512),
    "real size": real_size,
    "two GPUs": two_gpus,
    "stability": stability,
    "schedules": schedules,
    "few-step base": few_step_base,
    "convergence": convergence,
    "diffusion digits": diffusion_digits,
    "guidance in the plane": guidance_in_the_plane,
    **{f"latent {part}": partial(of_latent, content) for part, content in LATENT_PARTS.items()},
    **{
        f"latent {part}": partial(of_latent, content, "latent_growth") for part, content in LATENT_GROWTH_PARTS.items()
    },
    "latent images": latent_images,
}


def fill_tables(page: str) -> str:
    """A page with all its tables of measurements made anew."""
    for name in names_of(page):
        if name in TABLES:
            page = fill(page, name, TABLES[name]())
    return page


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(fill_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
