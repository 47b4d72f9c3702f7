"""The registry has the names of the families' classes."""

import pytest

from diffusers_twinflow.families import FAMILIES, family_of, family_of_pipeline_class
from diffusers_twinflow.families.registry import CLASSES


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_a_family(name):
    family, classes = FAMILIES[name], CLASSES[name]
    assert family.name == name and type(family).__name__ == classes.family
    assert family.pipeline_class.__name__ == classes.pipeline
    assert family.transformer_class.stock_class().__name__ == classes.denoiser
    assert FAMILIES[name] is family is family_of(classes.pipeline) is family_of_pipeline_class(classes.pipeline)


def test_no_family():
    assert family_of_pipeline_class("DDPMPipeline") is None and family_of_pipeline_class() is None
    assert "nope" not in FAMILIES and FAMILIES.get("nope") is None
    assert not any(name in FAMILIES for name in (["flux"], None, "DiffusionPipeline", "FluxPipeline", "ShapEPipeline"))


def test_a_derived_family_is_found_by_its_pipeline_class_and_not_listed():
    family = FAMILIES["CogView4Pipeline"]
    assert FAMILIES["CogView4Pipeline"] is family is family_of("CogView4Pipeline")
    assert family is family_of_pipeline_class("CogView4Pipeline")
    assert family.name in FAMILIES and family.name not in list(FAMILIES)
