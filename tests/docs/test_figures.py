"""The tables of measurements say what the files of results say."""

import json
import statistics

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BRIDGE = (ROOT / "docs" / "diff2flow.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
TRAIN_TYPES = {"lora": "LoRA, rank 64", "full": "full weights"}
EPSILON_ROWS = {
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
SAMPLERS = {"`TwinFlowScheduler`, multi": "TwinFlow multi", "`DDIMScheduler`": "DDIM"}


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def rows(page: str, first_cells: str) -> list[list[str]]:
    """The cells of the table rows under the header that begins so, without the first one."""
    _, table = page.split(f"| {first_cells} |", 1)
    lines = table.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def test_the_digits():
    report, earlier = results("digits_demo"), results("digits_demo_defaults")
    real = report["real_digits"]
    expected = [["real digits, held out", "-", f"{real['frechet_distance']:.1f}", f"{real['agreement']:.1%}"]]
    for column in report["columns"]:
        figures = str(column["evaluations"]), f"{column['frechet_distance']:.1f}", f"{column['agreement']:.1%}"
        expected.append([column["name"], *figures])
    assert rows(README, "| evaluations | Fréchet distance") == expected
    slow, fast = ([f"{run['seconds'][part] / 60:.1f}" for part in ("training", "total")] for run in (report, earlier))
    assert "Training took {} minutes, everything after installation {}.".format(*slow) in README
    assert "with the defaults, took {} and {} ".format(*fast) in README


def test_the_bound_and_the_decay_on_the_digits():
    told = []
    for name in ("digits_demo_clamp_10", "digits_demo_defaults", "digits_demo"):
        base, _, *distilled = (column["frechet_distance"] for column in results(name)["columns"])
        told.append(" / ".join(f"{distance / base:.2f}" for distance in distilled))
    wide, default, both = told
    text = joined((ROOT / "docs" / "method.md").read_text(encoding="utf-8"))
    assert (
        f"a bound of 10 gives {wide} times the base's Fréchet distance at 1, 2 and 4 steps, the default of 1 {default}"
        in text
    )
    assert f"With 0.95 and the bound of 10 the digits come to {both} times the base's distance" in text
    options = json.loads((ROOT / "examples" / "digits" / "distill_lora.json").read_text(encoding="utf-8"))
    assert (options["twinflow_ema_decay"], options["twinflow_target_clamp"]) == (0.95, 10)


def engine_rows(train_type: str) -> dict[str, dict]:
    return {row["name"]: row for row in results(f"training_engine_{train_type}")["rows"]}


def joined(text: str) -> str:
    """The text as one line, to look for sentences in."""
    return " ".join(text.split())


@pytest.mark.parametrize("train_type, label", TRAIN_TYPES.items())
def test_the_cost_of_a_step(train_type, label):
    found = engine_rows(train_type)
    flow_matching, plain, engine, compiled = (
        found[name] for name in ("flow matching", "plain", "engine", "engine, compiled")
    )
    (row,) = (row for row in rows(README, "| time, flow matching = 1") if row[0] == label)
    assert row[1] == f"{engine['seconds'] / flow_matching['seconds']:.1f}"
    assert row[2] == f"{plain['seconds'] / engine['seconds']:.2f} times"
    assert row[3] == f"{plain['seconds'] / compiled['seconds']:.2f} times"
    memory = f"{engine['peak_gigabytes']:.1f} GiB (flow matching {flow_matching['peak_gigabytes']:.1f}"
    assert row[4].startswith(memory)
    assert row[5] == f"{compiled['peak_gigabytes']:.1f} GiB"
    assert f"{compiled['seconds'] / found['flow matching, compiled']['seconds']:.1f} times" in README
    assert f"{compiled['compile_seconds']:.0f} s" in TROUBLESHOOTING


def test_the_readmes_other_figures_of_speed():
    on_the_gpu = [row for row in results("scheduler_step_cuda")["rows"] if row["device"].startswith("NVIDIA")]
    ratios = {
        noise: [row["ratio"] for row in on_the_gpu if row["noise"] == noise] for noise in ("no noise", "fresh noise")
    }
    for noise, text in (("no noise", "{} times as long"), ("fresh noise", "{} times with fresh noise")):
        assert text.format(f"{max(ratios[noise]):.1f}") in README
    small, larger = (
        [row["seconds"] for row in results("training_engine_orders")["table"] if row["batch_size"] == n]
        for n in (4, 16)
    )
    assert sum(small) == pytest.approx(sum(larger), rel=0.1)


@pytest.mark.parametrize("train_type, label", TRAIN_TYPES.items())
def test_the_training_engine(train_type, label):
    found = engine_rows(train_type)
    base, plain = found["flow matching"], found["plain"]
    expected = []
    for name, row in found.items():
        assert row.get("graphs_in_timed_steps", 0) == 0
        seconds = f"{row['seconds']:.3f}", f"{row['fastest']:.3f} to {row['slowest']:.3f}"
        times = f"{row['seconds'] / base['seconds']:.2f}", f"{plain['seconds'] / row['seconds']:.2f}"
        memory = f"{row['peak_gigabytes']:.2f}", f"{row['peak_gigabytes'] / base['peak_gigabytes']:.3f}"
        compiling = [f"{row['compile_seconds']:.0f}", str(row["graphs"])] if "graphs" in row else ["-", "-"]
        expected.append([name, *seconds, *times, *memory, *compiling])
    assert rows(BENCHMARKS, label) == expected


def test_the_memory_of_a_full_step_and_the_cost_of_compiled_ones():
    full, lora = engine_rows("full"), engine_rows("lora")
    more, compiled_more = (
        full[f"engine{kind}"]["peak_gigabytes"] - full[f"flow matching{kind}"]["peak_gigabytes"]
        for kind in ("", ", compiled")
    )
    copy = full["engine"]["parameters"] * 4 / 2**30
    text = joined(BENCHMARKS)
    assert f"{more:.3f} GiB over flow matching's, {compiled_more:.3f} GiB where both are compiled" in text
    assert f"one copy of the weights in float32 is {copy:.3f} GiB" in text
    ratios = [
        rows["engine, compiled"]["seconds"] / rows["flow matching, compiled"]["seconds"] for rows in (full, lora)
    ]
    assert "{:.2f} times compiled flow matching with full weights and {:.2f} times with a LoRA".format(*ratios) in text
    gains = [rows["flow matching"]["seconds"] / rows["flow matching, compiled"]["seconds"] for rows in (full, lora)]
    assert "flow matching {:.1f} and {:.1f} times".format(*gains) in text


def setting(row: dict) -> tuple:
    """What makes a row of latency; files of before there were settings hold single pictures, not compiled."""
    return row["way"], row["steps"], row.get("batch", 1), row.get("compiled", False)


def latency_rows(model: str) -> dict[tuple, dict]:
    rows = (row for row in results("latency")["rows"] if row["part"] == "latency" and row["model"] == model)
    return {setting(row): row for row in rows if row["what"] == "denoising"}


def latency_table(model: str) -> list[list[str]]:
    speedups = {
        setting(row): row["times_faster"]
        for row in results("latency")["speedups"]
        if row["model"] == model and row["stock_steps"] == 28
    }
    table = []
    for (way, steps, batch, compiled), row in latency_rows(model).items():
        every = row["all_seconds"]
        called = way, str(steps), str(batch), "yes" if compiled else "no"
        seconds = f"{row['seconds']:.3f}", f"{min(every):.3f} to {max(every):.3f}"
        times = "-" if way == "stock" else f"{speedups[way, steps, batch, compiled]:.1f}"
        table.append([*called, *seconds, times, f"{row['peak_gib']:.2f}"])
    return table


MEASURED_MODELS = {row["model"]: None for row in results("latency")["rows"] if row["part"] == "latency"}


@pytest.mark.parametrize("model", MEASURED_MODELS)
def test_the_latency(model):
    assert rows(BENCHMARKS, f"way, {model}") == latency_table(model)


def test_what_the_latency_says_of_the_aim():
    found = {setting(row): row["times_faster"] for row in results("latency")["speedups"] if "SD3" in row["model"]}
    for is_compiled in (False, True):
        assert found["TwinFlow", 2, 1, is_compiled] < 25 <= found["TwinFlow", 2, 4, is_compiled]
    times = {key: f"{faster:.1f}" for key, faster in found.items()}
    eager, compiled = (times["TwinFlow", 2, 4, is_compiled] for is_compiled in (False, True))
    text = joined(BENCHMARKS)
    assert f"With four pictures a call 2 steps are {eager} times as fast, and {compiled} where the blocks" in text
    eager, compiled = (times["TwinFlow", 2, 1, is_compiled] for is_compiled in (False, True))
    assert f"With one picture they are {eager} times as fast, {compiled} compiled" in text
    assert f"a LoRA that is not merged {times['TwinFlow, LoRA of rank 64 not merged', 2, 1, False]} times" in text
    assert f"2 steps are {eager} times as fast as 28 with guidance with one picture a call" in README
    assert f"{times['TwinFlow', 2, 4, False]} times with four" in README


def test_where_a_call_of_two_steps_goes():
    looks = {
        (row["model"], row["compiled"]): row
        for row in results("latency")["rows"]
        if row["part"] == "where_a_call_goes" and row["steps"] == 2
    }
    text, told = joined(BENCHMARKS), []
    for key in (("SD3.5-medium", False), ("SD3.5-medium", True), ("FLUX.1-dev", False)):
        whole = 1000 * statistics.median(looks[key]["all_done_seconds"])
        told.append(f"{1000 * looks[key]['device_busy_seconds']:.0f} ms of {whole:.0f}")
    assert "it is busy {}, compiled {} (".format(*told[:2]) in text
    assert f"There the GPU is busy {told[2]}." in text
    eager = looks["SD3.5-medium", False]
    assert f"{eager['kernels']:,} kernels to launch" in text
    stock = latency_rows("SD3.5-medium")["stock", 28, 1, False]["seconds"]
    busy = eager["device_busy_seconds"]
    assert f"Those {1000 * busy:.0f} ms alone would be {stock / busy:.1f} times less" in text


def test_the_latency_of_flux_and_of_the_earlier_run():
    (flux,), (earlier,) = (
        [
            row["times_faster"]
            for row in results(name)["speedups"]
            if (row["model"], row["stock_steps"], *setting(row)) == (model, 28, "TwinFlow", 2, 1, False)
        ]
        for name, model in (("latency", "FLUX.1-dev"), ("speed", "SD3.5-medium"))
    )
    text = joined(BENCHMARKS)
    assert flux < 28 / 2 and f"14 times as fast as 28 at most; they are {flux:.1f} times" in text
    assert f"had {earlier:.1f} times for 2 steps with one picture" in text


def test_what_a_call_does_on_the_host():
    shared = ("call", "transformer", "scheduler", "outside_steps", "finding_the_device")
    ours = ("twinflow_pipeline", "target_times", "conditioning")
    expected = []
    for row in results("call_overhead_cpu")["rows"]:
        own = ["-" if row["way"] == "stock" else f"{row[f'{name}_ms']:.2f}" for name in ours]
        expected.append([row["way"], *(f"{row[f'{name}_ms']:.2f}" for name in shared), *own])
    assert rows(BENCHMARKS, "way, on a CPU") == expected


GRAPHS_ROWS = {
    setting(row) + (row["graphs"],): row
    for row in results("latency_graphs")["rows"]
    if "way" in row and row["part"] == "latency"
}


def test_the_latency_with_cuda_graphs():
    found = results("latency_graphs")
    speedups = {
        setting(row) + (row["graphs"],): row["times_faster"] for row in found["speedups"] if row["stock_steps"] == 28
    }
    expected = []
    for key, row in GRAPHS_ROWS.items():
        way, steps, _, is_compiled, has_graphs = key
        every = row["all_seconds"]
        how = "CUDA graphs" if has_graphs else "compiled blocks" if is_compiled else "as it is"
        times = "-" if way == "stock" else f"{speedups[key]:.1f}"
        seconds = f"{row['seconds']:.3f}", f"{min(every):.3f} to {max(every):.3f}"
        expected.append([way, str(steps), how, *seconds, times, f"{row['peak_gib']:.2f}"])
    assert rows(BENCHMARKS, "way, one picture on an H200") == expected
    assert found["device"] == results("training_512")["device"] == "NVIDIA H200"
    assert found["versions"]["torch"] == "2.11.0" and found["versions"]["diffusers"] == "0.42.1"
    two, stock = GRAPHS_ROWS["TwinFlow", 2, 1, False, True], GRAPHS_ROWS["stock", 28, 1, False, False]
    times, text = f"{speedups['TwinFlow', 2, 1, False, True]:.1f}", joined(BENCHMARKS)
    assert f"2 steps of one picture take {1000 * two['seconds']:.0f} ms, {times} times less" in text
    assert f"{stock['seconds'] / two['seconds']:.1f} times less than those of the stock pipeline as it is" in text
    compiling = GRAPHS_ROWS["TwinFlow", 4, 1, False, True]["first_call_seconds"]
    assert f"which took {compiling:.0f} s here" in text
    assert f"{times} times with CUDA graphs of both" in joined(README)


def test_the_memory_beside_the_authors():
    told = []
    for way in ("authors' TwinFlow", "ours, TwinFlow", "authors' TwinFlow, base in float32 as in their script"):
        for name, resolution in (("speed", 1024), ("training_512", 512)):
            (row,) = (row for row in results(name)["rows"] if row.get("way") == way and row["resolution"] == resolution
                      and row["part"] == "training")  # fmt: skip
            told.append(f"{row['peak_gib']:.1f}")
    text = joined(BENCHMARKS)
    every = [row["all_seconds"] for row in results("training_512")["rows"]]
    apart = sorted(max(seconds) / min(seconds) - 1 for seconds in every)
    assert f"calls of one row are {apart[0]:.0%} to {apart[-1]:.0%} apart" in text
    assert "({0} against {2} GiB at 1024 pixels, {1} against {3} at 512)".format(*told) in text
    assert "more ({4} and {5} GiB)".format(*told) in text


@pytest.mark.parametrize(("name", "resolution"), [("speed", 1024), ("training_512", 512)])
def test_training_beside_others(name, resolution):
    expected = []
    for row in results(name)["rows"]:
        if row["part"] == "training" and row["resolution"] == resolution:
            every = row["all_seconds"]
            seconds = f"{row['seconds']:.3f}", f"{min(every):.3f} to {max(every):.3f}"
            memory = f"{row['samples_per_second']:.2f}", f"{row['peak_gib']:.1f}"
            expected.append([row["way"], *seconds, *memory, f"{row['trained_parameters'] / 1e6:.1f}"])
    assert rows(BENCHMARKS, f"way, {resolution} pixels") == expected


def test_real_size():
    expected = []
    for row in results("real_size")["rows"] + results("real_size_qwen")["rows"]:
        size = (
            f"{row['parameters'] / 1e9:.1f}",
            row["quantize_base"] or "bf16",
            str(row["resolution"]),
            str(row["batch"]),
        )
        branches = row["seconds_by_branches"].values()
        slowest = f"{min(branches):.2f} to {max(branches):.2f}" if len(branches) > 1 else "-"
        memory = f"{row['base_gib']:.1f}", f"{row['peak_gib']:.1f}"
        expected.append([row["model"], *size, str(row["runs"]), f"{row['seconds']:.2f}", slowest, *memory])
    assert rows(BENCHMARKS, "model, real size") == expected


def test_two_gpus():
    found, expected = results("several_gpus"), []
    by_part = {row["part"]: row for row in found["rows"]}
    for train_type, label in (("lora", "LoRA"), ("full", "all weights")):
        one = by_part[f"{train_type}_one"]
        for kind in ("one", "ddp", "fsdp2"):
            row = by_part.get(f"{train_type}_{kind}")
            if row is None:
                continue
            every, where = row["all_seconds"], "one GPU" if kind == "one" else f"{kind}.yaml"
            seconds = f"{row['seconds']:.2f}", f"{min(every):.2f} to {max(every):.2f}"
            relative = [f"{row[key]:{form}}" for key, form in (("samples_per_second", ".2f"), ("peak_gib", ".1f"))]
            ratios = [f"{row[key] / one[key]:.2f}" for key in ("samples_per_second", "peak_gib")]
            expected.append([label, where, *seconds, relative[0], ratios[0], relative[1], ratios[1]])
            assert (row["processes"], row["batch"], row["runs"]) == (1 if kind == "one" else 2, 4, 8)
    assert rows(BENCHMARKS, "what trains | on") == expected and len(expected) == 5
    assert found["device"] == "NVIDIA H200" and "full_ddp" not in by_part
    faster = by_part["lora_ddp"]["samples_per_second"] / by_part["lora_one"]["samples_per_second"]
    smaller = by_part["full_fsdp2"]["peak_gib"] / by_part["full_one"]["peak_gib"]
    assert f"two H200s take {faster:.2f} times the samples of one with DDP and a LoRA" in README
    assert f"with FSDP2 all weights take {smaller:.2f} times the memory of each" in README
    assert f"`python {found['command'].split(' --output')[0]}`" in joined(BENCHMARKS)


@pytest.mark.parametrize("name", ["training_engine_full", "speed", "latency", "real_size", "real_size_qwen"])
def test_the_pages_device_is_that_of_the_files(name):
    found = results(name)
    versions = found.get("versions", found)
    assert found["device"] == "NVIDIA H100 80GB HBM3"
    assert versions["torch"].startswith("2.11.0") and versions["diffusers"] == "0.42.1"
    assert "an H100 (80 GB, HBM3) with torch 2.11.0 and diffusers 0.42.1" in joined(BENCHMARKS)


def test_the_convergence_of_the_bridge():
    errors = {
        (f"{row['schedule']}, {row['prediction_type']}, {row['guidance']:g}", row["way"]): row["relative_error"]
        for row in results("diff2flow_convergence")["rows"]
    }
    table = rows(BRIDGE, "schedule, prediction, guidance")
    assert len(table) > 0
    for setting, sampler, *cells in table:
        assert cells == [f"{error:.4f}" for error in errors[setting, SAMPLERS[sampler]].values()]


def score(column: dict | None) -> str:
    return "-" if column is None else f"{column['frechet_distance']:.1f} ({column['agreement']:.1%})"


def test_the_diffusion_digits():
    report = results("epsilon_sweep")
    base = report["base"]
    columns = {column["name"]: column for column in report["parts"]["base"]["columns"]}
    parts = {label: report["parts"][name] for label, name in EPSILON_VARIANTS.items()}
    expected = [
        [label, str(base["steps"]), *(score(name and columns[name]) for name in names)]
        for label, names in EPSILON_ROWS.items()
    ]
    for label, part in parts.items():
        expected.append([label, str(part["training"]["steps"]), *map(score, part["columns"]), "-"])
    assert rows(BRIDGE, "| steps of training | 1 step | 2 steps | 4 steps | 50 steps") == expected


def test_guidance_in_the_plane():
    expected = []
    for row in results("guidance")["rows"]:
        shown = [f"{row['guidance']:g}", f"{row['radius']:.3f}", f"{row['diversity']:.3f}"]
        if row["way"] == "base":
            expected.append(["base", *shown])
        elif row["evaluations"] == 50:
            empty = f"{row['empty_prompts']:.0%} empty prompts" if row["empty_prompts"] else "no empty prompts"
            expected.append([f"distilled, ratio {row['ratio']:g}, {empty}", *shown])
    table = rows((ROOT / "docs" / "method.md").read_text(encoding="utf-8"), "50 steps in the plane | guidance")
    assert len(table) == 6 and all(row in expected for row in table)
