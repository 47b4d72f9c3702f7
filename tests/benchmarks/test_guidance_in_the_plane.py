import json

import pytest
import torch

import guidance


def test_the_points_of_a_prompt_are_one_outwards_of_the_middle():
    x, condition = guidance.draw_points(torch.Generator().manual_seed(0), dropout=0.0)
    outwards, along = guidance.axes(condition["prompt"])
    assert (x * outwards).sum(1).mean().item() == pytest.approx(1.0, abs=0.05)
    assert (x * along).sum(1).std().item() == pytest.approx((0.6**2 * 2 / 3 + 0.15**2) ** 0.5, abs=0.05)
    torch.testing.assert_close((outwards * along).sum(1), torch.zeros(len(x)), atol=1e-6, rtol=0)


def test_guidance_is_that_of_the_velocities():
    """One step of a network whose velocity is its prompt's number, 4 for the empty one."""

    def network(x, t, r, sign, condition):
        return condition["prompt"][:, None].float().expand_as(x)

    prompt = torch.tensor([1, 2])
    noise = torch.randn(2, 2, generator=torch.Generator().manual_seed(1))
    moved = guidance.draw_samples(network, prompt, 1, 3.0, False)
    torch.testing.assert_close(noise - moved, (4 + 3 * (prompt[:, None] - 4.0)).expand(2, 2))


def test_every_way_has_its_rows(tmp_path):
    path = tmp_path / "guidance.json"
    args = guidance.parse_args(["--base_steps=2", "--steps=2", "--width=16", f"--output={path}"])
    assert guidance.main(args) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["guidance"] for row in rows if row["way"] == "base"] == [1, 2, 3]
    distilled = [(row["ratio"], row["empty_prompts"], row["evaluations"]) for row in rows if row["way"] == "distilled"]
    assert distilled == [(*setting, steps) for setting in guidance.GUIDED for steps in (guidance.MANY_STEPS, 1, 2)]
