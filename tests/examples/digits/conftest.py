import pytest
import torch


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    from prepare_data import prepare_data

    return prepare_data(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def splits(data_dir):
    """Images and labels of the two splits, by name. Do not change them."""
    from prepare_data import load_split

    return {split: load_split(data_dir, split) for split in ("train", "test")}


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    """A base whose autoencoder has seen two batches, and whose latents are those of few digits."""
    from build_base import build_base, parse_args
    from prepare_data import load_digits, to_dataset

    few_digits, output_dir = tmp_path_factory.mktemp("few"), tmp_path_factory.mktemp("base")
    images, labels = load_digits()
    for split, taken in (("train", slice(0, None, 25)), ("test", slice(1, None, 100))):
        to_dataset(images[taken], labels[taken]).to_parquet(few_digits / f"{split}.parquet")
    arguments = ["--data_dir", str(few_digits), "--output_dir", str(output_dir), "--vae_steps", "2", "--device", "cpu"]
    build_base(parse_args(arguments))
    return output_dir


@pytest.fixture
def striped_columns():
    """Samples of the ten digits in turn, for two columns."""
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"base, 1 evaluation": images, "TwinFlow, 1 step": 1 - images}
