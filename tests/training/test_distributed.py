from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.sharding import copy_whole, gathered, local_part, whole
from diffusers_twinflow.training.distributed import check_distributed, check_sharding


def accelerator(kind: DistributedType, is_fsdp2: bool = False, device: str = "cuda", zero_stage: int | None = None):
    """What the checks look at of an accelerator."""
    return SimpleNamespace(
        distributed_type=kind,
        is_fsdp2=is_fsdp2,
        device=torch.device(device),
        deepspeed_plugin=SimpleNamespace(zero_stage=zero_stage),
        num_processes=1,
    )


@pytest.mark.parametrize(
    ("found", "offload_ema", "message"),
    [
        (accelerator(DistributedType.DEEPSPEED, zero_stage=3), False, "zero_stage=3.*zero_stage: 2.*fsdp2.yaml"),
        (accelerator(DistributedType.FSDP), False, "fsdp_version=1.*fsdp_version: 2"),
        (accelerator(DistributedType.FSDP, is_fsdp2=True), True, "offload_ema.*sharded.*Leave it out"),
        (accelerator(DistributedType.NO, device="cpu"), True, "offload_ema.*on the CPU.*Leave it out"),
    ],
)
def test_what_would_train_wrongly_is_refused(found, offload_ema, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        check_distributed(found, offload_ema)


def test_a_model_that_runs_once_per_sample_is_not_sharded():
    sharded, whole_model = accelerator(DistributedType.FSDP, is_fsdp2=True), accelerator(DistributedType.MULTI_GPU)
    with pytest.raises(TwinFlowConfigError, match="Cosmos3OmniPipeline cannot be trained with sharded weights"):
        check_sharding(sharded, FAMILIES["Cosmos3OmniPipeline"])
    check_sharding(whole_model, FAMILIES["Cosmos3OmniPipeline"])
    check_sharding(sharded, FAMILIES["flux"])


@pytest.mark.parametrize(
    "found",
    [
        accelerator(DistributedType.NO, device="cpu"),
        accelerator(DistributedType.FSDP, is_fsdp2=True),
        accelerator(DistributedType.DEEPSPEED, zero_stage=2),
    ],
)
def test_the_rest_is_let_through(found):
    check_distributed(found)


def test_tensors_that_are_not_sharded_stay_what_they_are():
    module = torch.nn.Linear(2, 2)
    weight = module.weight
    assert local_part(weight).data_ptr() == whole(weight).data_ptr() == weight.data_ptr()
    copy_whole(weight, torch.ones(2, 2))
    assert weight.eq(1).all() and weight.requires_grad
    with gathered(module, keep=True):
        assert module.weight is weight
