import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space import BLOCK_FIELDS, PRESETS, SPACES, ArchSpec, Space, SpecError, StageSpec
from search_space.arch import STEM_STRIDES
from search_space.genes import Layout, StageChoices

CONV_LIKE = {"c2f", "light_c2f", "basic", "bottleneck", "mbconv", "fused_mbconv", "convnext", "repdw", "pool"}

ONE = StageChoices(blocks=("basic",), depths=(1,), widths=(16,))
TINY = Space(
    name="tiny",
    stages=(
        StageChoices(blocks=("c2f", "pool"), depths=(1, 2), widths=(16,), conv_expansions=(0.5, 1.0)),
        ONE,
        StageChoices(
            blocks=("window", "mr_window", "attention", "mbconv"),
            depths=(1,),
            widths=(16,),
            mlp_expansions=(2.0, 4.0),
            heads=(1, 2),
            windows=(2, 4),
            mr_windows=(2,),
            subsamplings=("conv", "pool"),
        ),
        ONE,
    ),
    layouts=(Layout(("conv", "patch"), ("conv",), stem_widths=(8, 16), necks=("none", "stage3"), neck_dims=(8, 16)),),
)
OPTIONAL = Space(
    name="optional",
    stages=(
        ONE,
        StageChoices(
            blocks=("bottleneck", "maxvit", "fused_mbconv"),
            depths=(1,),
            widths=(16,),
            conv_expansions=(0.5, 1.0),
            group_widths=(None, 4),
            squeezes=(None, 0.25, 0.5),
        ),
    ),
    layouts=(Layout(("patch16",), ("conv", "pool")),),
)
STAGE = StageChoices(blocks=("basic",), depths=(1, 2), widths=(16,))
MIXED = Space(
    name="mixed",
    stages=(STAGE,) * 5,
    layouts=(
        Layout(("conv",), ("conv",), (8,), ("none", "stage2"), (8,), last_strides=(16, 32)),
        Layout(("conv16", "patch16"), ("mbconv", "pool"), (), ("none", "stage3"), (8,), (16, 32, 64), (2.0, 4.0)),
    ),
)
KERNELS = Space(
    name="kernels",
    stages=(
        StageChoices(blocks=("mbconv", "light_c2f", "convnext", "pool"), depths=(1,), widths=(16,), kernels=(3, 5, 7)),
    ),
    layouts=(Layout(("patch",), ("conv",)),),
)
EXPANDING = Space(
    name="expanding",
    stages=(STAGE, STAGE),
    layouts=(Layout(("patch",), ("conv", "mbconv"), downsampling_expansions=(2.0, 4.0)),),
)
VIT = Space(
    name="vit",
    stages=(
        StageChoices(
            blocks=("pool", "bn_attention", "vit"),
            depths=(3, 4),
            widths=(16,),
            vit_windows=(None, 4, 8),
            global_everies=(2, 3),
            registers=(None, 1),
            positions=(None, "conditional"),
        ),
        StageChoices(blocks=("vit",), depths=(1,), widths=(16,), vit_windows=(None, 4)),
    ),
    layouts=(Layout(("patch16",), ("conv",)),),
)
SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(SPACES))


@pytest.mark.parametrize(
    ("space", "number"),
    [
        # Stage 1: (2 + 1) x 2. Stage 3: window 2x2x2, mr_window 2x2x2, attention 2x2, mbconv 2. Stem: 2 + 1.
        # Neck: 1 + 2.
        (TINY, 6 * (8 + 8 + 4 + 2) * 3 * 3),
        # bottleneck 2x2x3, maxvit 3, fused_mbconv 1; downsampling 2.
        (OPTIONAL, (12 + 3 + 1) * 2),
        # 2 of each stage. Stride 4: neck 2. Stride 16: stem 2; with more stages downsampling 3 and neck 2.
        (MIXED, (8 + 16) * 2 + 2 * (2 + (4 + 8) * 3 * 2)),
        # Three kernels for each block that has one; its default is one of them.
        (KERNELS, 3 + 3 + 3 + 1),
        # Two of each stage; two expansions for the one downsampling that expands.
        (EXPANDING, 2 * 2 * (1 + 2)),
        # pool, bn_attention: 1; vit: no window, or two windows of two patterns; times registers, times positions.
        (VIT, (1 + 1 + (1 + 2 * 2) * 2 * 2) * 2 * 2),
    ],
)
def test_count_agrees_with_brute_force(space, number):
    choices = space.choices()
    everything = (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))
    assert space.count() == len({space.decode(params).arch_id for params in everything}) == number


def test_the_micro_space_stays_that_of_its_published_searches():
    assert SPACES["micro"].count() == 781_863_114_240
    sample = [SPACES["micro"].sample(random.Random(seed)).arch_id for seed in range(3)]
    assert sample == ["fc25bcebbe86", "8363a4b18a44", "eee081b3dd47"]


def test_the_laptop_space_contains_the_micro_space():
    rng = random.Random(0)
    assert all(SPACES["laptop"].contains(SPACES["micro"].sample(rng)) for _ in range(200))


def test_the_full_space_offers_every_block():
    blocks = [set(stage.blocks) for stage in SPACES["full"].stages]
    assert blocks[2] == set(BLOCK_FIELDS)
    assert blocks[3] == set(BLOCK_FIELDS) - {"mr_window"}
    assert blocks[0] == blocks[1] == CONV_LIKE


@pytest.mark.parametrize(
    ("space", "names"),
    [
        ("micro", ("eradio_femto", "eradio_pico", "eradio_nano")),
        ("laptop", ("eradio_femto", "eradio_pico", "eradio_nano")),
        ("full", ("eradio_b", "eradio_l", "eradio_s", "eradio_t", "eradio_xt")),
    ],
)
def test_presets_are_points_of_their_space(space, names):
    assert all(SPACES[space].contains(PRESETS[name]) for name in names)


@pytest.mark.parametrize("space", [SPACES["full"], MIXED])
def test_stems_decide_the_stages(space):
    """A stem of stride 16 leaves out the stages before; necks count the stages of the space."""
    rng, seen = random.Random(0), set()
    for _ in range(300):
        spec = space.sample(rng)
        params = space.encode(spec)
        prefix = "" if STEM_STRIDES[spec.stem] == 4 else "stride16."
        assert spec.strides[-1] == params[f"{prefix}last_stride"]
        assert set(spec.strides) <= set(space.strides)
        if spec.neck != "none":
            fused = spec.strides[int(spec.neck.removeprefix("stage")) - 1]
            (gene,) = (gene for gene in space.active(params) if gene.field == "neck")
            assert params[gene.name] == f"stage{space.strides.index(fused) + 1}"
            assert fused < spec.strides[-1]
        for stage, stride in zip(spec.stages, spec.strides, strict=True):
            assert params[f"stage{space.strides.index(stride) + 1}.width"] == stage.width
        seen.add(spec.strides)
    assert seen == {(4, 8, 16), (4, 8, 16, 32), (16,), (16, 32), (16, 32, 64)}


def test_a_neck_of_a_stage_alone_is_in_no_space():
    """It has no later stage to fuse; the layout of stride 16 has no gene for it."""
    spec = ArchSpec((StageSpec("basic", 1, 16, expansion=0.5),), stem="patch16")
    assert MIXED.contains(spec)
    with pytest.raises(SpecError, match="neck: 'stage1' is not one of none"):
        MIXED.encode(replace(spec, neck="stage1", neck_dim=8))


def test_layouts_that_cannot_be_are_refused_when_the_space_is_made():
    for layout in (Layout(("conv", "patch16"), ("conv",), (8,)), Layout(("patch",), ("conv",), last_strides=(32,))):
        with pytest.raises(SpecError, match=f"stems: {', '.join(layout.stems)}; need one stride"):
            Space("odd", (ONE,) * 3, (layout,))
    five = Layout(("patch",), ("conv",), last_strides=(64,))  # stages, where an architecture has four at most
    with pytest.raises(SpecError, match="last_strides from it to 32"):
        Space("odd", (ONE,) * 5, (five,))


def test_necks_and_stems_that_cannot_be_are_refused_when_the_space_is_made():
    for neck in ("stage1", "stage3", "stage9"):  # before the stem, the last one, none of the space
        layout = Layout(("patch16",), ("conv",), necks=("none", neck), neck_dims=(8,))
        other = Layout(("patch",), ("conv",), last_strides=(8,))
        with pytest.raises(SpecError, match=f"necks: {neck}; need a stage at stride 16 or more, and below 16"):
            Space("odd", (ONE,) * 3, (other, layout))
    with pytest.raises(SpecError, match="stems: 'deep' is not one of conv"):
        Space("odd", (ONE,), (Layout(("deep",), ("conv",)),))


def test_a_stranger_is_not_contained_and_encode_names_the_parameter():
    assert not SPACES["micro"].contains(PRESETS["eradio_l"])
    with pytest.raises(SpecError, match=r"stage1\.depth: 3"):
        SPACES["micro"].encode(PRESETS["eradio_l"])


@settings(max_examples=60, deadline=None)
@given(NAMES, SEEDS)
def test_samples_round_trip(name, seed):
    space = SPACES[name]
    spec = space.sample(random.Random(seed))
    params = space.encode(spec)
    assert set(params) == set(space.choices())
    assert space.decode(params) == spec
    assert space.contains(spec)
    assert ArchSpec.from_json(spec.to_json()) == spec
    assert ArchSpec.from_dict(spec.to_dict()).to_json() == spec.to_json()


@settings(max_examples=60, deadline=None)
@given(NAMES, SEEDS, st.data())
def test_any_setting_of_the_parameters_decodes(name, seed, data):
    space = SPACES[name]
    params = {key: data.draw(st.sampled_from(values)) for key, values in space.choices().items()}
    assert space.contains(space.decode(params))


@settings(max_examples=60, deadline=None)
@given(NAMES, SEEDS)
def test_mutants_are_neighbours(name, seed):
    space, rng = SPACES[name], random.Random(seed)
    spec = space.sample(rng)
    mutant = space.mutate(spec, rng)
    assert mutant.arch_id != spec.arch_id
    assert space.contains(mutant)
    before, after = space.encode(spec), space.encode(mutant)
    # A changed parent may bring its children along; roots and children of unchanged parents change twice at most.
    settled = set(space.active(before)) & set(space.active(after))
    assert sum(before[g.name] != after[g.name] for g in settled) <= 2


@settings(max_examples=60, deadline=None)
@given(NAMES, SEEDS)
def test_children_take_every_stage_from_a_parent(name, seed):
    space, rng = SPACES[name], random.Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert space.contains(child)
    parents = [dict(zip(parent.strides, parent.stages, strict=True)) for parent in (a, b)]
    for stride, stage in zip(child.strides, child.stages, strict=True):
        assert stage in [parent[stride] for parent in parents if stride in parent]
    assert child.strides in (a.strides, b.strides)
    assert (child.stem, child.stem_width) in ((a.stem, a.stem_width), (b.stem, b.stem_width))
    assert space.crossover(a, a, rng) == a


@pytest.mark.parametrize("space", [TINY, MIXED], ids=lambda space: space.name)
def test_mutation_reaches_every_choice(space):
    rng, spec, seen = random.Random(0), space.sample(random.Random(1)), set()
    for _ in range(500):
        spec = space.mutate(spec, rng)
        params = space.encode(spec)
        seen |= {(gene.name, params[gene.name]) for gene in space.active(params)}
    assert seen == {(gene.name, value) for gene in space.genes for value in gene.choices}


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"global_everies": (2, 3)}, "stage2: global_every: 3"),
        ({"global_everies": (None, 2), "registers": (None, 4)}, "stage2: registers: 4"),
        ({"heads": (1, 8), "positions": (None, "rotary")}, "stage2: positions: 'rotary'"),
    ],
)
def test_patterns_that_a_vit_cannot_have_are_refused_when_the_space_is_made(choices, words):
    odd = StageChoices(blocks=("vit",), depths=(2, 6), widths=(16,), vit_windows=(None, 4), **choices)
    with pytest.raises(SpecError, match=words):
        Space("odd", (ONE, odd), (Layout(("patch16",), ("conv",)),))


def test_a_space_without_choice_cannot_mutate():
    alone = Space("alone", (ONE,) * 4, (Layout(("patch",), ("conv",)),))
    assert alone.count() == 1
    with pytest.raises(SpecError, match="alone"):
        alone.mutate(alone.sample(random.Random(0)), random.Random(0))


def test_decode_refuses_missing_and_foreign_values():
    params = TINY.encode(TINY.sample(random.Random(0)))
    with pytest.raises(SpecError, match=r"stage1\.depth: 9 is not one of 1, 2"):
        TINY.decode({**params, "stage1.depth": 9})
    TINY.decode({**params, "stage1.depth": 1})
    for equal in (True, 1.0):  # also after the stage with 1 was decoded
        with pytest.raises(SpecError, match=f"depth: {equal} is not a whole number"):
            TINY.decode({**params, "stage1.depth": equal})
    del params["neck"]
    with pytest.raises(SpecError, match="neck: parameter is missing"):
        TINY.decode(params)


def test_groups_that_cannot_be_are_refused_when_the_space_is_made():
    for group_width in (6, 8):  # does not divide; is the whole
        odd = StageChoices(blocks=("bottleneck",), depths=(1,), widths=(16,), group_widths=(None, group_width))
        with pytest.raises(SpecError, match=f"group_width {group_width} makes no groups of hidden width 8"):
            Space("odd", (ONE, ONE, odd, ONE), (Layout(("patch",), ("conv",)),))
