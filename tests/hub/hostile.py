"""Hostile and mutated repositories by number, each loaded in a new process.

`python -m tests.hub.hostile 500` loads that many and prints how they ended; a second number is the first of them.
"""

import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline

KINDS = ("adapter", "model", "base")
TRAP = "code-was-run"
CHANGED = "changed"
MOST_SECONDS, MOST_BYTES = 60, 6 * 2**30
"""What a process may take before it is ended, so that a failure does not take the machine with it."""

DEEP: dict = {}
for _ in range(50):
    DEEP = {"a": DEEP}
VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 7, 64, 4096, 2**20, 2**22, 2**24, 10**9, 10**30, -(10**9), 2.0, 2.5, 1e300, -0.5,
    "", "x", "../..", "/etc/passwd", "os.system", "x" * 5000, "\ud800", "\0", [], [0], [1, 2, 3], [10**9] * 4, ["x"] * 999,
    list(range(2000)), {}, {"x": 1}, {"num_layers": 10**9}, DEEP, {str(i): i for i in range(2000)},
]  # fmt: skip
SIZES = [0, -1, 2, 3, 2**20, 2**22, 2**24 - 1, 2**24, 2**30, 10**9, 10**12, 2.0, 2.5, "8", [8, 8], None, True]


class Trap:
    """Pickled code: unpickling it makes a file."""

    def __reduce__(self):
        return open, (TRAP, "w")


def mutate(kind: str, directory: Path, number: int) -> str:
    """Change a good repository into the hostile one of this number; returns what was done."""
    rng = random.Random(f"{kind} {number}")
    ways = [change_json] * 4 + [change_size] * 2 + [change_tensors] * 4 + [change_bytes] * 2 + [change_files] * 2
    if kind == "adapter":
        ways += [change_metadata] * 5
    else:
        ways += [change_size] * 4 + [change_loading] * 5
    return rng.choice(ways)(directory, rng)


def change_json(directory: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(directory.rglob("*.json")))
    values = json.loads(path.read_text())
    place, keys = values, []
    while True:
        keys.append(rng.choice([*sorted(place), "extra"]))
        inner = place.get(keys[-1])
        if not (isinstance(inner, dict) and inner and rng.random() < 0.7):
            break
        place = inner
    value = rng.choice(VALUES)
    if rng.random() < 0.1:
        place.pop(keys[-1], None)
        value = "(removed)"
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(values))
    return f"{path.relative_to(directory)}: {'.'.join(keys)} = {str(value)[:40]!r}"


def change_size(directory: Path, rng: random.Random) -> str:
    """A number of a configuration, which is what sizes are made of."""
    names = ("config.json", "scheduler_config.json", "twinflow_config.json")
    path = rng.choice(sorted(path for path in directory.rglob("*.json") if path.name in names))
    values = json.loads(path.read_text())
    numbers = [k for k, v in values.items() if isinstance(v, (int, list)) and not isinstance(v, bool)]
    key, value = rng.choice(sorted(numbers)), rng.choice(SIZES)
    values[key] = value
    path.write_text(json.dumps(values))
    return f"{path.relative_to(directory)}: {key} = {value!r}"


def change_metadata(directory: Path, rng: random.Random) -> str:
    path = directory / "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    key = rng.choice([*sorted(metadata), "transformer.extra"])
    value = rng.choice([*VALUES, {f"a.b{i}": 2 for i in range(4000)}, [f"a.b{i}" for i in range(100_000)]])
    metadata[key] = value
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(metadata)})
    return f"metadata: {key} = {str(value)[:40]!r}"


def change_tensors(directory: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(directory.rglob("*.safetensors")))
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    name = rng.choice(sorted(tensors))

    def drop_half():
        for other in rng.sample(sorted(tensors), len(tensors) // 2):
            del tensors[other]

    def rename():
        tensors[name + "_"] = tensors.pop(name)

    def replace(tensor):
        tensors[name] = tensor.contiguous()

    def add(count):
        tensors.update({f"extra.{i}": torch.zeros(1) for i in range(count)})

    ways = {
        "half dropped": drop_half,
        "one dropped": lambda: tensors.pop(name),
        "all dropped": tensors.clear,
        "renamed": rename,
        "transposed": lambda: replace(tensors[name].transpose(0, -1)),
        "flattened": lambda: replace(tensors[name].flatten()),
        "wider": lambda: replace(torch.cat([tensors[name]] * 2)),
        "empty": lambda: replace(tensors[name][:0]),
        "scalar": lambda: replace(torch.tensor(1.0)),
        "double": lambda: replace(tensors[name].double()),
        "integers": lambda: replace(tensors[name].long()),
        "truth values": lambda: replace(tensors[name] > 0),
        "eight bits": lambda: replace(tensors[name].to(torch.float8_e4m3fn)),
        "half precision": lambda: replace(tensors[name].half()),
        "NaN": lambda: replace(torch.full_like(tensors[name], torch.nan)),
        "infinity": lambda: replace(torch.full_like(tensors[name], torch.inf)),
        "one more": lambda: add(1),
        "70,000 more": lambda: add(70_000),
    }
    way = rng.choice(sorted(ways))
    ways[way]()
    save_file(tensors, path, metadata)
    return f"{path.relative_to(directory)}: {name} {way}"


def change_bytes(directory: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(path for path in directory.rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    places = [rng.randrange(min(len(content), 8000)) for _ in range(rng.randint(1, 6))]
    for place in places:
        content[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    path.write_bytes(content)
    return f"{path.relative_to(directory)}: bytes changed at {places}"


def change_files(directory: Path, rng: random.Random) -> str:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    path, other = rng.sample(files, 2)

    def cut():
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])

    def make_folder():
        path.unlink()
        path.mkdir()

    def make_pipe():
        path.unlink()
        os.mkfifo(path)

    def link_away():
        path.rename(directory.parent / "outside")
        path.symlink_to(directory.parent / "outside")

    def link_nowhere():
        path.unlink()
        path.symlink_to("nowhere")

    ways = {
        "gone": path.unlink,
        "cut": cut,
        "empty": lambda: path.write_bytes(b""),
        "2 MB of blanks": lambda: path.write_bytes(b" " * 2_000_000),
        "a pickle": lambda: path.write_bytes(pickle.dumps(Trap())),
        f"that of {other.name}": lambda: shutil.copyfile(other, path),
        "a folder": make_folder,
        "a pipe": make_pipe,
        "a link that leaves": link_away,
        "a link to nothing": link_nowhere,
        "deep JSON": lambda: path.write_bytes(b"[" * 200_000),
    }
    way = rng.choice(sorted(ways))
    ways[way]()
    return f"{path.relative_to(directory)}: {way}"


def change_loading(directory: Path, rng: random.Random) -> str:
    """What diffusers and transformers look at when they choose what to load and to run."""
    component = rng.choice(["transformer", "vae", "text_encoder", "text_encoder_2"])
    folder = directory / component
    weights = next(folder.glob("*.safetensors"))
    code = f"open({TRAP!r}, 'w')\nclass Sorcery: pass\n"

    def set_json(path, **values):
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))

    def shard(name, write):
        tensors = load_file(weights)
        write(folder / name)
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, name)}
        Path(f"{weights}.index.json").write_text(json.dumps(index))
        weights.unlink()

    def pickle_to(path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(Trap()))

    def torch_pickle_to(path):
        torch.save({"a": Trap()}, path)

    def half_index():
        tensors = load_file(weights)
        half = dict(sorted(tensors.items())[: len(tensors) // 2])
        save_file(half, folder / "half.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(half, "half.safetensors")}
        Path(f"{weights}.index.json").write_text(json.dumps(index))
        weights.unlink()

    def auto_tokenizer():
        set_json(directory / "model_index.json", tokenizer=["transformers", "AutoTokenizer"])
        auto = {"AutoTokenizer": ["code.Sorcery", None]}
        set_json(directory / "tokenizer" / "tokenizer_config.json", auto_map=auto, tokenizer_class="Sorcery")
        (directory / "tokenizer" / "code.py").write_text(code)

    def auto_map():
        set_json(folder / "config.json", auto_map={"AutoModel": "code.Sorcery", "AutoConfig": "code.Sorcery"})
        (folder / "code.py").write_text(code)

    def own_pipeline(name):
        def change():
            set_json(
                directory / "model_index.json", _class_name=["pipeline", "Sorcery"], **{name: ["code", "Sorcery"]}
            )
            for place in (directory, folder):
                (place / "pipeline.py").write_text(code)
                (place / "code.py").write_text(code)

        return change

    def only_pickle():
        weights.unlink()
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
            torch_pickle_to(folder / name)

    def class_of(entry):
        return lambda: set_json(directory / "model_index.json", **{component: entry})

    ways = {
        "index of a pickle": lambda: shard("x.bin", pickle_to),
        "index of a torch pickle": lambda: shard("x.bin", torch_pickle_to),
        "index of a pickle that is called safetensors": lambda: shard("x.safetensors", pickle_to),
        "index that leaves": lambda: shard("../../x.safetensors", pickle_to),
        "index of half the weights": half_index,
        "only pickles": only_pickle,
        "tokenizer with code": auto_tokenizer,
        "model with code": auto_map,
        "pipeline with code": own_pipeline("vae"),
        "component with code": own_pipeline(component),
        "adapter of another model": lambda: set_json(
            folder / "adapter_config.json", base_model_name_or_path="/etc", peft_type="LORA", task_type=None
        ),
        "quantised": lambda: set_json(
            folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "dataset": "c4"}
        ),
        "retriever": class_of(["transformers", "RagRetriever"]),
        "module": class_of(["os", "system"]),
        "pipeline as component": class_of(["diffusers", "DiffusionPipeline"]),
        "another model": class_of(["transformers", "GPT2LMHeadModel"]),
        "backbone": class_of(["transformers", "TimmBackbone"]),
    }
    way = rng.choice(sorted(ways))
    ways[way]()
    return f"{component}: {way}"


@dataclass(frozen=True)
class Outcome:
    """How loading a repository ended.

    Attributes:
        what: what was done to the repository.
        end: "loaded", "refused", or what must not be: "traceback", "random", "code", "killed".
        text: the error, if there was one.
        seconds: of processor time that it took; one that only waits is ended and "killed".
        peak_bytes: most memory of the process, beyond what it had before.
    """

    what: str
    end: str
    text: str
    seconds: float
    peak_bytes: int


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.shape == other.shape and torch.equal(tensor.nan_to_num(), other.nan_to_num())


def load(kind: str, directory: Path, good: dict[str, Path]) -> TwinFlowPipeline:
    if kind == "base":
        return TwinFlowPipeline.from_pretrained(good["adapter"], base_model=str(directory))
    if kind == "adapter":
        return TwinFlowPipeline.from_pretrained(directory, base_model=str(good["base"]))
    return TwinFlowPipeline.from_pretrained(directory)


def _attempt(connection, kind: str, number: int | None, good: dict[str, Path], folder: Path) -> None:
    """In a process of its own: change a copy, load it twice, and tell what happened."""
    os.chdir(folder)
    with open(folder / "stderr", "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    directory = shutil.copytree(good[kind], folder / "repository")
    what = "nothing" if number is None else mutate(kind, directory, number)
    connection.send(CHANGED)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    Path("/proc/self/clear_refs").write_text("5")
    before, start, end, text = peak_bytes(), time.process_time(), "loaded", ""
    try:
        pipeline = load(kind, directory, good)
    except TwinFlowConfigError as error:
        end, text = "refused", str(error)
    except BaseException:
        end, text = "traceback", traceback.format_exc()
    seconds, peak = time.process_time() - start, peak_bytes() - before
    if end == "loaded":
        torch.manual_seed(number or 0)
        again = load(kind, directory, good)
        for name, module in pipeline.components.items():
            if isinstance(module, torch.nn.Module):
                states = module.state_dict(), again.components[name].state_dict()
                if not all(same(tensor, states[1][key]) for key, tensor in states[0].items()):
                    end, text = "random", name
    if (folder / TRAP).exists():
        end = "code"
    connection.send(Outcome(what, end, text, seconds, peak))


def attempt(kind: str, number: int | None, good: dict[str, Path]) -> Outcome:
    """Load the hostile repository of this number, or the good one for `None`.

    A forked process can wait for ever for a lock that a thread of its parent held, about once in a thousand. So a
    repository counts as killed only if it is killed twice.
    """
    outcome = attempt_once(kind, number, good)
    return attempt_once(kind, number, good) if outcome.end == "killed" else outcome


def attempt_once(kind: str, number: int | None, good: dict[str, Path]) -> Outcome:
    """Do the work of `attempt`."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_attempt, args=(sender, kind, number, good, Path(folder)))
        process.start()
        sender.close()
        try:
            assert receiver.recv() == CHANGED
            outcome = receiver.recv() if receiver.poll(MOST_SECONDS) else None
        except EOFError:
            outcome = None
        if outcome is None:
            process.kill()
            outcome = Outcome(f"number {number}", "killed", "no answer", MOST_SECONDS, 0)
        process.join()
        return outcome


def good_repositories(folder: Path) -> dict[str, Path]:
    from tests import tiny
    from tests.hub import repositories

    good = {kind: folder / kind for kind in KINDS}
    tiny.sd3_pipeline().save_pretrained(good["base"])
    repositories.write_repository(good["adapter"], str(good["base"]))
    repositories.write_model(good["model"], good["base"])
    return good


def tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(count: int, first: int = 0) -> int:
    with tempfile.TemporaryDirectory() as folder:
        good = good_repositories(Path(folder))
        for kind in KINDS:
            load(kind, good[kind], good)  # what is imported on the way is not counted
        base = {kind: attempt(kind, None, good) for kind in KINDS}
        own = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        for kind, outcome in base.items():
            tell(f"good {kind}: {outcome.end}, {outcome.seconds:.2f} s, {outcome.peak_bytes / 2**20:.0f} MiB")
        ends, slowest, largest = Counter(), 0.0, 0.0
        for number in range(first, first + count):
            kind = KINDS[number % len(KINDS)]
            outcome = attempt(kind, number, good)
            ends[kind, outcome.end] += 1
            slowest = max(slowest, outcome.seconds)
            ratio = (own + outcome.peak_bytes) / (own + base[kind].peak_bytes)
            largest = max(largest, ratio)
            if number % 50 == 49:
                tell(f"{number + 1}: {dict(ends)}")
            if outcome.end not in ("loaded", "refused") or outcome.seconds > 10 or ratio > 2:
                tell(f"{kind} {number}: {outcome.what}: {outcome.end}, {outcome.seconds:.1f} s, memory {ratio:.2f}")
                tell(outcome.text[-1500:])
        for (kind, end), times in sorted(ends.items()):
            tell(f"{kind}: {times} {end}")
        tell(f"slowest {slowest:.2f} s; most memory {largest:.2f} times that of a good one")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
