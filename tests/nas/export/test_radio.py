"""The class of `--format hf` in a training: gradient checkpointing as transformers switches it, alone and in a VLM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from nas.export.radio import BackboneNasConfig, BackboneNasModel
from tests.nas.export.builders import SPEC


class VlmConfig(PretrainedConfig):
    model_type = "example_vlm"


class Vlm(PreTrainedModel):
    """A model of transformers with a tower in it."""

    config_class = VlmConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, tower: BackboneNasModel) -> None:
        super().__init__(VlmConfig())
        self.tower = tower
        self.projector = nn.Linear(tower.embed_dim, 8)

    def forward(self, pixel_values: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.tower(pixel_values)[1])
        return projected


def tower() -> BackboneNasModel:
    torch.manual_seed(0)
    return BackboneNasModel(BackboneNasConfig(spec=SPEC.to_dict(), hidden_size=SPEC.neck_dim, patch_size=16))


def runs_of_a_block(model: nn.Module, made: BackboneNasModel) -> int:
    """Train on a batch, with a backward pass, and return how often a block of the tower was computed."""
    runs: list[None] = []
    hook = made.network.stages[0].blocks[0].register_forward_pre_hook(lambda *call: runs.append(None))
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    output = model(images)
    (output if isinstance(output, Tensor) else output[1]).square().mean().backward()
    hook.remove()
    return len(runs)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers 5.24 has further names for the same
@pytest.mark.parametrize("in_a_vlm", [False, True])
def test_gradients_are_the_same_with_checkpointing_and_each_block_is_computed_twice(in_a_vlm: bool) -> None:
    made = [tower(), tower()]
    models: list[PreTrainedModel] = [Vlm(each) if in_a_vlm else each for each in made]
    if in_a_vlm:
        models[1].projector.load_state_dict(models[0].projector.state_dict())
    models[1].gradient_checkpointing_enable()
    assert [model.train().is_gradient_checkpointing for model in models] == [False, True]
    assert [runs_of_a_block(model, each) for model, each in zip(models, made, strict=True)] == [1, 2]
    for (name, plain), (_, checkpointed) in zip(
        models[0].named_parameters(), models[1].named_parameters(), strict=True
    ):
        assert (plain.grad is None) == (checkpointed.grad is None), name
        if plain.grad is not None and checkpointed.grad is not None:
            torch.testing.assert_close(checkpointed.grad, plain.grad)
    statistics = [dict(model.named_buffers()) for model in models]
    torch.testing.assert_close(*statistics)  # those of BatchNorm are updated once
    models[1].gradient_checkpointing_disable()
    assert not models[1].is_gradient_checkpointing
    assert runs_of_a_block(models[1], made[1]) == 1
