"""The example recipes of SimpleTuner, with TwinFlow switched on and the data replaced.

Set `SIMPLETUNER_CHECKOUT` to a checkout of SimpleTuner. The test writes to standard error what is read and why not.
"""

import json
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from diffusers_twinflow import TwinFlowConfigError, lenient_json
from diffusers_twinflow.integrations.simpletuner.option_table import treatment_of
from diffusers_twinflow.training.recipe import load_recipe

CHECKOUT = os.environ.get("SIMPLETUNER_CHECKOUT")
TWINFLOW = {"twinflow_enabled": True, "use_ema": True, "distillation_method": None}
"""What switches TwinFlow on in a recipe of SimpleTuner."""


@pytest.mark.skipif(not CHECKOUT, reason="SIMPLETUNER_CHECKOUT is no checkout of SimpleTuner")
@pytest.mark.filterwarnings("ignore")
def test_example_recipes(tmp_path, capsys):
    configs = sorted(Path(CHECKOUT).glob("simpletuner/examples/*/config.json"))
    assert configs
    read, refused = [], defaultdict(list)
    for config in configs:
        recipe = {name.lstrip("-"): value for name, value in lenient_json.loads(config.read_bytes()).items()}
        assert [name for name in recipe if treatment_of(name) is None] == []
        recipe = recipe | TWINFLOW | {"data_backend_config": None, "instance_data_dir": str(tmp_path)}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(recipe))
        try:
            load_recipe(path).method()
        except TwinFlowConfigError as error:
            refused[str(error)].append(config.parent.name)
            assert re.match(r"\w+", str(error))[0] in recipe, error
        else:
            read.append(config.parent.name)
    report = [f"{len(read)} of {len(configs)} example recipes are read: {', '.join(read)}"]
    report += [f"{len(names)} refused: {error} ({', '.join(names)})" for error, names in sorted(refused.items())]
    with capsys.disabled():
        sys.stderr.write("\n" + "\n".join(report) + "\n")
    assert len(read) >= 0.6 * len(configs)
