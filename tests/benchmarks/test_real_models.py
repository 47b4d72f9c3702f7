import pytest
import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import no_init_weights

from at_real_size.building import quantized_transformer, random_transformer
from at_real_size.models import FLUX_DEV, QWEN_IMAGE, SD35_MEDIUM
from diffusers_twinflow.training.quantization import quantization_config

CPU = torch.device("cpu")
MODELS = {"sd3": SD35_MEDIUM, "flux": FLUX_DEV, "qwen": QWEN_IMAGE}


@pytest.mark.parametrize(
    ("model", "parameters"),
    [(SD35_MEDIUM, 2_243_171_520), (FLUX_DEV, 11_901_408_320), (QWEN_IMAGE, 20_430_401_088)],
    ids=MODELS,
)
def test_a_model_has_as_many_parameters_as_the_published_one(model, parameters):
    fewer_positions = {"pos_embed_max_size": 8} if "pos_embed_max_size" in model.transformer else {}
    with no_init_weights(), init_empty_weights():
        transformer = model.transformer_class(**(model.transformer | fewer_positions))
    assert sum(parameter.numel() for parameter in transformer.parameters()) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_a_family_takes_the_random_latents_and_prompts(name):
    model = MODELS[name].tiny()
    transformer = random_transformer(model, CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.bfloat16}
    latents = model.latents(2, 64, CPU)
    t = torch.tensor([0.3, 1.0])
    velocity = model.family_object.velocity(transformer)
    predicted = velocity(latents, t, None, None, model.condition(2, CPU, torch.bfloat16))
    assert predicted.shape == latents.shape == (2, 4, 8, 8)
    assert predicted.isfinite().all() and predicted.std() > 0


def test_a_quantised_base_has_the_layers_that_diffusers_loads_from_files(tmp_path):
    model = QWEN_IMAGE.tiny()
    random_transformer(model, CPU, torch.bfloat16).save_pretrained(tmp_path)
    config = quantization_config("torchao_int8", ["transformer"], torch.bfloat16).quant_mapping["transformer"]
    loaded = model.transformer_class.from_pretrained(tmp_path, quantization_config=config, dtype=torch.bfloat16)
    built = quantized_transformer(model, CPU, torch.bfloat16, "torchao_int8")

    def layers(transformer):
        return {
            name: (type(parameter), parameter.shape, parameter.dtype)
            for name, parameter in transformer.named_parameters()
        }

    assert layers(built) == layers(loaded)
    assert len({kind for kind, _, _ in layers(built).values()}) == 2
    assert (built.is_quantized, built.quantization_method) == (loaded.is_quantized, loaded.quantization_method)
