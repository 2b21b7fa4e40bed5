import dataclasses
import json

import pytest

from search_space import BLOCK_FIELDS, PRESETS, ArchSpec, SpecError, StageSpec, preset
from search_space.arch import shrinking_heads
from search_space.stage import OPTIONAL

PICO = PRESETS["eradio_pico"]
VIT = PRESETS["like_vit_base16"]
# Of the first release. Studies, caches and weights files refer to them.
ARCH_IDS = {
    "eradio_nano": "1cb75b8decea",
    "eradio_pico": "e828ecd09363",
    "eradio_femto": "22ed7c9e01a0",
    "eradio_b": "82513747af52",
    "eradio_l_fullres": "4a23f631d68d",
    "eradio_xxxtiny_8x_ws16": "1c3de552b05c",
    "like_vit_base16": "b9edafce492b",
}


def test_identities_never_change():
    assert {name: preset(name).arch_id for name in ARCH_IDS} == ARCH_IDS


def test_fields_that_nothing_reads_do_not_change_the_identity():
    plain = StageSpec("c2f", 1, 32, expansion=0.5)
    noisy = StageSpec(
        "c2f", 1, 32, expansion=0.5, heads=7, window=3, pre_conv="dense", cpb_hidden=9, subsampling="conv"
    )
    assert noisy == plain
    stages = (plain, *PICO.stages[1:])
    a = ArchSpec(stages, stem="patch", stem_width=16, neck="none", neck_dim=64)
    b = ArchSpec((noisy, *PICO.stages[1:]), stem="patch", stem_width=24)
    assert a == b
    assert a.arch_id == b.arch_id
    assert len(a.arch_id) == 12


def test_whole_and_fractional_expansion_hash_alike():
    assert StageSpec("mbconv", 1, 32, expansion=4) == StageSpec("mbconv", 1, 32, expansion=4.0)
    assert '"expansion":4.0' in ArchSpec((StageSpec("mbconv", 1, 32, expansion=4),) * 4, stem="patch").to_json()


def test_options_that_say_nothing_are_none():
    bare = StageSpec("bottleneck", 1, 32, expansion=0.5)
    assert StageSpec("bottleneck", 1, 32, expansion=0.5, group_width=16) == bare  # one group of all: dense
    assert StageSpec("bottleneck", 1, 32, expansion=0.5, group_width=8) != bare
    assert StageSpec("bottleneck", 1, 32, expansion=0.5, squeeze=0.25) != bare
    assert StageSpec("mbconv", 1, 32, expansion=2, squeeze=1) == StageSpec("mbconv", 1, 32, expansion=2, squeeze=1.0)
    assert "squeeze" not in ArchSpec((bare,), stem="patch").to_json()


def test_a_block_s_own_kernel_is_none():
    for block, default in (("c2f", 3), ("light_c2f", 5), ("mbconv", 3), ("convnext", 7), ("repdw", 3)):
        bare = StageSpec(block, 1, 32, expansion=0.5)
        assert StageSpec(block, 1, 32, expansion=0.5, kernel=default) == bare
        assert bare.kernel_size == default
        others = [StageSpec(block, 1, 32, expansion=0.5, kernel=k) for k in (3, 5, 7) if k != default]
        assert [stage.kernel_size for stage in others] == [stage.kernel for stage in others]
        assert len({ArchSpec((stage,), stem="patch").arch_id for stage in (bare, *others)}) == 3
        assert "kernel" not in ArchSpec((bare,), stem="patch").to_json()
    assert StageSpec("pool", 1, 32, expansion=0.5, kernel=5).kernel is None


def test_every_optional_field_is_one_that_a_block_reads():
    assert {field for reads in BLOCK_FIELDS.values() for field in reads} == set(OPTIONAL)


def test_only_some_downsampling_layers_have_an_expansion():
    plain = dataclasses.replace(PICO, downsampling_expansion=4.0)
    assert plain == PICO
    assert "downsampling_expansion" not in plain.to_json()
    wide = [dataclasses.replace(PICO, downsampling="mbconv", downsampling_expansion=e) for e in (4, 4.0, 6)]
    assert wide[0] == wide[1]
    assert wide[0].arch_id == wide[1].arch_id
    assert wide[0].arch_id != wide[2].arch_id
    assert ArchSpec.from_json(wide[2].to_json()).downsampling_expansion == 6.0


def test_strides_follow_stem_and_number_of_stages():
    assert PICO.strides == (4, 8, 16, 32)
    assert VIT.strides == (16,)
    assert ArchSpec((*VIT.stages, PICO.stages[3]), stem="patch16").strides == (16, 32)
    assert ArchSpec(PICO.stages[1:], stem="conv16").strides == (16, 32, 64)


def test_one_stage_has_no_downsampling():
    assert dataclasses.replace(VIT, downsampling="pool") == VIT


@pytest.mark.parametrize(("width", "attended"), [(4, 4), (16, 8), (224, 48), (448, 96)])
def test_single_head_attends_among_a_share_of_the_channels(width, attended):
    assert StageSpec("single_head", 1, width, expansion=2, key_width=4).single_head_channels == attended


@pytest.mark.parametrize(
    ("width", "heads", "key_width"), [(4, 1, 16), (40, 2, 16), (128, 8, 16), (192, 6, 32), (256, 8, 32), (384, 12, 32)]
)
def test_the_attention_that_shrinks_a_map_has_levits_heads(width, heads, key_width):
    assert shrinking_heads(width) == (heads, key_width)


@pytest.mark.parametrize(
    ("squeeze", "depth", "short", "longer", "repeats"),
    [
        (None, 1, 1, 1, 0),
        (None, 5, 1, 2, 4),
        (0.25, 1, 1, 1, 0),
        (0.25, 2, 2, 2, 0),
        (0.25, 5, 1, 3, 2),
        (0.25, 6, 2, 4, 2),
    ],
)
def test_a_shortened_stage_ends_with_the_same_block_of_its_period(squeeze, depth, short, longer, repeats):
    few, more, times = StageSpec("repdw", depth, 32, expansion=2, squeeze=squeeze).shortened()
    assert (few.depth, more.depth, times) == (short, longer, repeats)
    assert few.squeeze == more.squeeze == squeeze


def vit(**fields):
    return StageSpec("vit", **{"depth": 12, "width": 32, "expansion": 4, "heads": 4, "grid": 14} | fields)


@pytest.mark.parametrize(
    ("depth", "every", "short", "longer", "repeats"),
    [(12, None, 1, 2, 11), (12, 4, 4, 8, 2), (13, 4, 5, 9, 2), (7, 4, 7, 7, 0), (4, 4, 4, 4, 0), (9, 2, 3, 5, 3)],
)
def test_a_shortened_vit_keeps_its_share_of_global_layers(depth, every, short, longer, repeats):
    few, more, times = vit(depth=depth, window=7, global_every=every).shortened()
    assert (few.depth, more.depth, times) == (short, longer, repeats)
    for place in range(depth):
        assert vit(depth=depth, window=7, global_every=every).global_layers[place] == (
            every is not None and (place + 1) % every == 0
        )


def test_options_of_a_vit_that_say_nothing_are_none():
    assert vit(global_every=3) == vit()
    assert vit(window=(7,)) == vit(window=7) != vit()
    assert vit(positions="conditional", grid=14) == vit(positions="conditional", grid=None) != vit()
    assert vit().global_layers == (True,) * 12
    assert ArchSpec((vit(),), stem="patch16").to_dict().keys() == {"stages", "stem", "downsampling", "neck"}
    specs = [vit(), *(vit(**more) for more in ({"window": 7}, {"registers": 1}, {"registers": 4}, {"mlp": "swiglu"}))]
    specs += [vit(window=7, global_every=3), vit(window=7, global_every=4), vit(layer_scale=1), vit(window=8)]
    archs = [ArchSpec((stage,), stem="patch16") for stage in specs]
    archs.append(ArchSpec((vit(registers=1),), stem="patch16", summary="token"))
    assert len({arch.arch_id for arch in archs}) == len(archs)
    assert all(ArchSpec.from_json(arch.to_json()) == arch for arch in archs)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"window": 7, "global_every": 1}, ("global_every", "1", "leave out")),
        ({"window": 7, "registers": 4}, ("registers", "4", "global_every")),
        ({"registers": 0}, ("registers", "0", "from 1")),
        ({"positions": "learned"}, ("positions", "'learned'", "conditional")),
        ({"positions": "rotary", "width": 24}, ("positions", "'rotary'", "multiple of 4", "6")),
    ],
)
def test_errors_of_a_vit_name_field_value_and_choices(fields, words):
    with pytest.raises(SpecError) as error:
        vit(**fields)
    assert all(word in str(error.value) for word in words)


def test_a_summary_token_needs_registers_in_the_last_stage():
    for stages in ((vit(),), (vit(registers=4), PICO.stages[3])):
        with pytest.raises(SpecError, match=r"summary: 'token'.*registers"):
            ArchSpec(stages, stem="patch16", summary="token")
    with pytest.raises(SpecError, match="summary: 'mean'"):
        ArchSpec((vit(),), stem="patch16", summary="mean")


def test_json_round_trip():
    for spec in PRESETS.values():
        assert ArchSpec.from_json(spec.to_json()) == spec
        assert ArchSpec.from_dict(json.loads(json.dumps(spec.to_dict(), indent=2))).arch_id == spec.arch_id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block": "crossformer"}, ("block", "'crossformer'", "mr_window")),
        ({"depth": 0}, ("depth", "0", "from 1")),
        ({"depth": True}, ("depth", "True")),
        ({"width": 64.0}, ("width", "64.0")),
        ({"expansion": float("nan")}, ("expansion", "nan")),
        ({"heads": 5}, ("heads", "5", "96")),
        ({"pre_conv": "sparse"}, ("pre_conv", "'sparse'", "depthwise")),
        ({"window": None}, ("window", "None")),
        ({"subsampling": "max"}, ("subsampling", "'max'", "pool")),
        ({"block": "bottleneck", "group_width": 7}, ("group_width", "7", "hidden width 384")),
        ({"block": "mbconv", "squeeze": 0}, ("squeeze", "0", "0.015625")),
        ({"block": "mbconv", "kernel": 4}, ("kernel", "4", "3, 5, 7")),
        ({"block": "swin", "window": (2, 4)}, ("window", "(2, 4)", "one number")),
        ({"block": "vit"}, ("grid", "None", "to 256")),
        ({"block": "single_head", "key_width": 97}, ("key_width", "97", "to 96")),
        ({"block": "bn_attention", "key_width": 16}, ("grid", "None", "to 256")),
    ],
)
def test_stage_errors_name_field_value_and_choices(change, words):
    with pytest.raises(SpecError) as error:
        dataclasses.replace(PICO.stages[2], **change)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": ()}, ("stages", "0", "4")),
        ({"stages": PICO.stages + PICO.stages[:1]}, ("stages", "5", "4")),
        ({"stages": PICO.stages[:2]}, ("neck", "'stage3'", "stage2")),
        ({"stem": "patch16"}, ("stages", "4", "'patch16'", "3")),
        ({"downsampling": "x"}, ("downsampling", "'x'", "conv", "fused_mbconv")),
        ({"downsampling": "mbconv"}, ("downsampling_expansion", "None", "from 1 to 32")),
        ({"neck_dim": 0}, ("neck_dim", "0")),
    ],
)
def test_arch_errors_name_field_value_and_choices(change, words):
    with pytest.raises(SpecError) as error:
        dataclasses.replace(PICO, **change)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ("JSON",)),
        ("[]", ("spec", "[]")),
        ("{}", ("stages", "missing")),
        ('{"stages": [1, 2, 3, 4]}', ("stage 1", "1")),
        ('{"stages": [{"block": "c2f", "depth": 1}]}', ("stage 1", "width", "missing")),
        ('{"stages": [], "colour": 1}', ("colour", "stem_width")),
    ],
)
def test_reading_bad_text_is_a_spec_error(text, words):
    with pytest.raises(SpecError) as error:
        ArchSpec.from_json(text)
    assert all(word in str(error.value) for word in words)


def test_eradio_is_the_large_one_and_unknown_names_list_the_choices():
    assert preset("eradio") == preset("eradio_l")
    with pytest.raises(SpecError, match=r"'eradio_q'.*eradio_b"):
        preset("eradio_q")
