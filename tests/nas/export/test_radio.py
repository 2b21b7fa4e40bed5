"""The class of `--format hf` in a training, saved and opened again: alone and in a VLM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from nas.export.radio import BackboneNasConfig, BackboneNasModel
from search_space import ArchSpec
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


ADAPTORS = {"colour": {"fingerprint": "a", "summary": [96, 8, 4], "spatial": [SPEC.neck_dim, 8, 8], "stride": 16}}
IMAGES = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))


def tower(spec: ArchSpec = SPEC, **options: object) -> BackboneNasModel:
    torch.manual_seed(0)
    return BackboneNasModel(BackboneNasConfig(spec=spec.to_dict(), hidden_size=SPEC.neck_dim, patch_size=16, **options))


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


def without_gradient(model: BackboneNasModel) -> list[str]:
    """Return the trainable parameters that a loss of the tokens alone does not reach."""
    model.network.norm.requires_grad_(False)  # as the guide says: behind a neck it makes the summary alone
    model.train()(IMAGES)[1].square().mean().backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_loss_of_the_tokens_reaches_all_that_trains(tmp_path: Path) -> None:
    """DistributedDataParallel refuses trainable parameters without a gradient."""
    made = tower(adaptors=ADAPTORS)
    made.save_pretrained(tmp_path)
    assert without_gradient(made) == []
    assert without_gradient(BackboneNasModel.from_pretrained(tmp_path)) == []


def test_convolutions_of_an_opened_folder_are_in_channels_last_memory(tmp_path: Path) -> None:
    made = tower()
    made.save_pretrained(tmp_path)
    opened, _ = BackboneNasModel.from_pretrained(tmp_path, output_loading_info=True)
    kernels = [[p for p in model.network.parameters() if p.ndim == 4] for model in (made, opened)]
    assert [p.stride() for p in kernels[1]] == [p.stride() for p in kernels[0]]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels[1])
    with torch.no_grad():
        assert torch.equal(opened(IMAGES)[1], made.eval()(IMAGES)[1])


def test_a_frozen_tower_opens_without_missing_tensors(tmp_path: Path) -> None:
    made = tower()
    made.train()(IMAGES)
    made.network = freeze_batch_norm_2d(made.network)
    made.save_pretrained(tmp_path)
    opened, about = BackboneNasModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"]
    assert {int(b) for name, b in opened.named_buffers() if name.endswith("num_batches_tracked")} == {0}
    with torch.no_grad():
        torch.testing.assert_close(opened(IMAGES)[1], made.eval()(IMAGES)[1])


def test_counts_of_batches_that_a_folder_has_stay(tmp_path: Path) -> None:
    made = tower()
    made.train()(IMAGES)
    made.save_pretrained(tmp_path)
    opened = BackboneNasModel.from_pretrained(tmp_path)
    assert {int(b) for name, b in opened.named_buffers() if name.endswith("num_batches_tracked")} == {1}


def test_a_folded_tower_keeps_its_statistics_while_the_vlm_trains(tmp_path: Path) -> None:
    made = tower()
    made.train()(IMAGES)
    made.eval().switch_to_deploy()
    with torch.no_grad():
        wanted = made(IMAGES)
    made.save_pretrained(tmp_path)
    for each in (made, BackboneNasModel.from_pretrained(tmp_path)):
        vlm = Vlm(each).train()
        assert not any(parameter.requires_grad for parameter in each.network.parameters())
        for images in (IMAGES, 0.3 * IMAGES):
            vlm(images).sum().backward()
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(each(IMAGES), wanted, strict=True))


@pytest.mark.parametrize("deployed", [False, True])
def test_windows_for_another_size_are_saved(deployed: bool, tmp_path: Path) -> None:
    spec = replace(SPEC, stages=tuple(replace(s, window=4) if s.block == "window" else s for s in SPEC.stages))
    made = tower(spec).eval()
    if deployed:
        made.switch_to_deploy()
    made.change_resolution((96, 192))
    assert made.network.spec.stages[2].window == 3
    made.save_pretrained(tmp_path)
    opened = BackboneNasModel.from_pretrained(tmp_path)
    assert opened.network.spec == made.network.spec
    with torch.no_grad():
        assert torch.equal(opened(IMAGES)[1], made(IMAGES)[1])
    opened.change_resolution(64)
    assert opened.network.spec == spec, "the windows of the training"
