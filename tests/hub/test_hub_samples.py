from PIL import Image

from diffusers_twinflow.hub.sample_images import read_prompts, write_samples


def column(*colours):
    return [Image.new("RGB", (40, 30), colour) for colour in colours]


def test_the_grid_of_a_card_has_labels_and_notes(tmp_path):
    path = write_samples(tmp_path, {"base, 28 steps": column("red"), "1 step": column("lime")}, ["a fox"])
    with Image.open(path) as grid:
        assert grid.height > 30 + 20
    assert read_prompts(tmp_path) == ["a fox"]
