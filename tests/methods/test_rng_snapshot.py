import torch

from diffusers_twinflow.methods.rng_snapshot import RNGSnapshot


def test_replay_repeats_the_dropout_and_leaves_the_outer_state():
    dropout = torch.nn.Dropout(0.5)
    x = torch.ones(100)
    snapshot = RNGSnapshot("cpu")
    first = dropout(x)
    before = torch.get_rng_state()
    with snapshot.replay():
        assert torch.equal(dropout(x), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(dropout(x), first)
