import logging

import psutil
import pytest

from diffusers_twinflow.data import DataConfig, open_source
from diffusers_twinflow.data.memory import sample_bytes, warn_about_memory

SOURCE = {"dataset_name": "a/b"}


def test_the_size_of_one_sample():
    assert sample_bytes(DataConfig(**SOURCE, resolution=512)) == 512 * 512 * 3 * 4
    assert sample_bytes(DataConfig(**SOURCE, resolution=64, num_frames=9)) == 9 * 64 * 64 * 3 * 4
    cached = DataConfig(**SOURCE, resolution=512, cache_latents=True)
    assert sample_bytes(cached) == pytest.approx(64 * 64 * 16 * 4)


@pytest.mark.parametrize(
    ("resolution", "batch_size"),
    [(100_000, 100), (512, 100_000_000)],
)
def test_a_batch_that_cannot_fit_is_named_with_its_options(caplog, resolution, batch_size):
    with caplog.at_level(logging.WARNING):
        warn_about_memory(DataConfig(**SOURCE, resolution=resolution), batch_size)
    assert f"`train_batch_size` {batch_size} at `resolution` {resolution}" in caplog.text
    assert "per sample" in caplog.text and "this machine" in caplog.text


def test_the_limit_is_what_is_free(caplog):
    config = DataConfig(**SOURCE, resolution=1024)
    fits = int(psutil.virtual_memory().available * 0.5 / sample_bytes(config))
    warn_about_memory(config, max(1, min(fits, 64)))
    assert not caplog.text
    warn_about_memory(config, 4 * fits)
    assert "out of memory" in caplog.text


def test_a_run_warns_before_it_reads_anything(caplog, tmp_path):
    with pytest.raises(Exception, match="no such folder"):
        open_source(DataConfig(instance_data_dir="/nowhere"), tmp_path, batch_size=10**9)
    assert "`train_batch_size` 1000000000" in caplog.text
