"""Write the reference pages that follow from the code: `python docs/generate.py`.

The pages are committed, so that GitHub shows them; `.ci/run docs` fails if they are not up to date. What they say
comes from parsers, docstrings and tables of the code: change a page there and generate it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parent / "reference"
COMMON = {"--help", "--verbose"}  # options of every command
NOTE = "<!-- Generated from the code by docs/generate.py; do not edit. -->"


def main() -> None:
    """Write all pages."""
    for name in MAKERS:
        path = REFERENCE / f"{name}.md"
        path.write_text(page(name))
        print(path)


def page(name: str) -> str:
    """Return the content of a page of reference/, by its name."""
    return f"{NOTE}\n\n{without_tags(MAKERS[name]().strip())}\n"


def without_tags(text: str) -> str:
    """Return Markdown in which a word in angle brackets, outside of code, is shown and is no HTML tag."""
    code = re.compile(r"(^```.*?^```$|`[^`\n]*`|<!--.*?-->)", re.DOTALL | re.MULTILINE)
    parts = code.split(text)  # text and code in turns
    return "".join(part if i % 2 else re.sub(r"<(?=[a-zA-Z/])", r"\\<", part) for i, part in enumerate(parts))


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object) -> str:
    """Return a value as one cell of a table."""
    return " ".join(str(value).replace("|", "\\|").split())


def rounded(number: float) -> str:
    """Return a number with three significant digits."""
    return f"{float(f'{number:.3g}'):,.10g}"


# --- command line


def cli_page() -> str:
    """Return the page of all commands, from their parsers."""
    from nas.__main__ import COMMANDS

    parts = [
        "# Command line",
        "Each command is also `python -m nas COMMAND`. Without a run folder, commands that read a study take"
        " `runs/latest`. `--help` of a command shows the same text. All commands have `--verbose` and the same"
        " [exit codes](exit_codes.md).",
        table(
            ["command", "step", "what it does"],
            [(f"[`{c.name}`](#backbone-nas-{c.name})", c.step, c.about) for c in COMMANDS],
        ),
    ]
    for each in COMMANDS:
        parts += command(each.parser(), f"backbone-nas {each.name}")
    return "\n\n".join(parts)


def command(parser: argparse.ArgumentParser, name: str, level: int = 2) -> Iterator[str]:
    """Yield the parts of one command: what it does, its options by group, its examples, then its sub-commands."""
    yield f"{'#' * level} `{name}`"
    yield str(parser.description)
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        below = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
        listed = [action for action in actions if action not in below and not COMMON & {*action.option_strings}]
        if listed:
            yield f"**{group.title or 'options'}**" + (f": {group.description}" if group.description else "")
            yield table(["option", "meaning"], [(f"`{words(action)}`", help_of(parser, action)) for action in listed])
        for action in below:
            for sub_name, sub in action.choices.items():
                yield from command(sub, f"{name} {sub_name}", level + 1)
    if examples := re.search(r"examples:\n(.*?)(?:\n\n|\Z)", parser.epilog or "", re.DOTALL):
        yield f"Examples:\n\n```text\n{textwrap.dedent(examples[1]).rstrip()}\n```"
        if rest := (parser.epilog or "")[examples.end() :].strip():
            yield rest


def words(action: argparse.Action) -> str:
    """Return an option as it is typed."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    value = "" if action.nargs == 0 else str(action.metavar or choices)
    optional = f"[{value}]" if action.nargs == "?" else value
    return ", ".join(action.option_strings) + (f" {optional}" if value else "")


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an option's help text with its default filled in."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


# --- configuration


def defaults_that_depend() -> str:
    """Return the defaults of a search that differ from those of `SearchConfig`, as a list."""
    from search_space import SPACES

    micro, full = (", ".join(f"`{name}`" for name in SPACES[space].baselines) for space in ("micro", "full"))
    return "\n".join(
        [
            f'- `space = "micro"`: `baselines` are {micro}.',
            f'- `space = "full"`: `reference` is `{SPACES["full"].reference}`, `baselines` are {full}, and '
            f"`img_size` is {SPACES['full'].image_px}.",
            "- CUDA: `measure_batch_size` is 128 or, where the CPU would limit the reference's speed, more; `runtime` "
            "is `compiled+bf16`, on GPUs below compute capability 8.0 `compiled+fp16`, below 7.0 `eager+fp32`.",
            "- Objectives that known-cost does not take: `sampler` is `evolution`.",
        ]
    )


def config_page() -> str:
    """Return the page of all settings, from the docstrings of their classes."""
    from nas.plan.arguments import parser as plan_parser
    from nas.search.arguments import parser as search_parser
    from nas.search.config_file import TABLES
    from nas.study.config import DistillConfig, Group, SearchConfig
    from nas.study.limits import LIMITS

    limits = [(f"`{limit.name}`", limit.help) for limit in LIMITS.values()]
    return "\n\n".join(
        [
            "# Configuration",
            "A search is described by `SearchConfig`, in Python, in a TOML file (`--config FILE.toml`) or by flags: the"
            " flag of `train_images` is `--train-images`. Flags override the file. Every run writes its settings to"
            " `RUN/config.toml`.",
            "## Search",
            "Keys at the top level of a config file. Some defaults depend on the space, the device and the objectives:",
            defaults_that_depend(),
            fields_table(SearchConfig, ("distill", "limits")),
            "## distill",
            "Keys of the table `[distill]`; on the command line `--distill KEY=VALUE`, with a JSON value.",
            fields_table(DistillConfig),
            "### groups",
            "Each entry of `groups`:",
            fields_table(Group),
            "## limits",
            "Keys of the table `[limits]`; a key that is missing is no limit.",
            table(["key", "meaning"], limits),
            "## run",
            "Keys of the table `[run]`: settings of one run on which no number depends.",
            options_table(TABLES["run"], search_parser()),
            "`teacher_weights` is a table from names of networks, in quotes because they have dots, to files. The names"
            " are those of `--teachers` without `@PX/N`:",
            "```toml\n[run.teacher_weights]\n"
            '"vit_huge_patch14_clip_224.laion2b" = "weights/vit_huge_patch14_clip_224.laion2b/model.safetensors"\n'
            '"samvit_huge_patch16.sa1b" = "/shared/weights/sam_h.safetensors"\n```',
            "## plan",
            "Keys of the table `[plan]`: the device that `backbone-nas plan` assumes. A search ignores them.",
            options_table(TABLES["plan"], plan_parser()),
        ]
    )


def fields_table(record: type, skipped: tuple[str, ...] = ()) -> str:
    """Return the table of a dataclass's fields: name, values, default, meaning (a flag's help or a docstring)."""
    from nas.validation import adapter, declared, flag_of

    meanings, hints = attributes(record), declared(record)
    rows = []
    for field in dataclasses.fields(record):
        if field.name in skipped:
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        shown = "required" if default is dataclasses.MISSING else f"`{json.dumps(default)}`"
        flag = flag_of(hints[field.name])
        meaning = meanings[field.name] if flag is None else flag.help.replace("%%", "%")
        schema = adapter(hints[field.name]).json_schema()
        if flag is not None and "choices" in flag.more:
            schema["enum"] = list(flag.more["choices"])
        rows.append((f"`{field.name}`", allowed(schema), shown, meaning))
    return table(["key", "value", "default", "meaning"], rows)


def allowed(schema: dict[str, Any]) -> str:
    """Return in words the values that a JSON schema allows."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "$ref" in schema or schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"a table, each value {allowed(inner)}" if isinstance(inner, dict) and inner else "a table"
    if schema["type"] == "array":
        return f"a list, each item {allowed(schema['items'])}"
    words = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    ends = {"minimum": "from", "exclusiveMinimum": "over", "maximum": "to", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[key]:,.15g}" for key, word in ends.items() if key in schema]
    step = [f"in steps of {schema['multipleOf']}"] if "multipleOf" in schema else []
    return " ".join([words[schema["type"]], *limits, *step])


def attributes(record: type) -> dict[str, str]:
    """Return the meaning of each attribute in a class's docstring (section Attributes or Args)."""
    return sections(record).get("Attributes") or sections(record).get("Args") or {}


def sections(thing: Any) -> dict[str, dict[str, str]]:
    """Return the entries of each section of a docstring in Google's style, by their names."""
    found: dict[str, dict[str, str]] = {}
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Yields):\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        body = textwrap.dedent(re.split(r"\n\S", text)[0])
        entries = re.split(r"^(?=\S)", body, flags=re.MULTILINE)
        pairs = (entry.partition(":") for entry in entries if entry.strip())
        found[title] = {name.strip(): " ".join(about.split()) for name, _, about in pairs}
    return found


def options_table(keys: Iterable[str], parser: argparse.ArgumentParser) -> str:
    """Return the table of keys whose meaning is the help text of the flag of their name."""
    flags = {word: action for action in parser._actions for word in action.option_strings}
    rows = [(f"`{key}`", help_of(parser, flags[f"--{key.replace('_', '-')}"])) for key in keys]
    return table(["key", "meaning"], rows)


# --- recipes


def recipes_page() -> str:
    """Return the page of the recipes, from the comments at their beginning."""
    from nas.search.options import recipe_names, recipe_path

    parts = [
        "# Recipes",
        "Config files that come with the package, for `--recipe NAME`; any flag overrides them. Hours, cost and disk"
        " are what `backbone-nas plan --recipe NAME` prints under the assumptions in the file, not measurements.",
    ]
    for name in recipe_names():
        text = recipe_path(name).read_text()
        comments = [line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines()]
        figures = [
            line.partition(": ")[::2] for line in comments[1:] if re.match(r"[A-Z][\w\- ]*(\([\w-]+\))?: \S", line)
        ]
        rest = " ".join(comments[1:]).partition("Prepare: ")[2]
        parts += [
            f"## `{name}`",
            comments[0],
            table(["", ""], [pair for pair in figures if pair[0] != "Prepare"]),
            f"Prepare: {rest}",
            f"```toml\n{text.partition(chr(10) * 2)[2].strip()}\n```",
        ]
    return "\n\n".join(parts)


# --- Python


def api_page() -> str:
    """Return the page of nas.api, from its docstrings: functions, then its own classes, then what it re-exports."""
    api = import_module("nas.api")
    about = (inspect.getdoc(api) or "").replace("```python", "<!-- needs: time -->\n```python")
    parts = ["# Python API", about]
    things = [(name, getattr(api, name)) for name in api.__all__]
    for name, thing in sorted(things, key=lambda item: kind_of(item[1], api.__name__)):
        if dataclasses.is_dataclass(thing) and not is_own(thing, api.__name__):
            link = "config.md#search" if name == "SearchConfig" else "config.md#distill"
            parts.append(f"## `{name}`\n\n{first_line(thing)} [Its fields]({link}).")
            continue
        parts += entry(thing, name, 2)
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            public = [(key, value) for key, value in vars(thing).items() if not key.startswith("_")]
            for key, value in public:
                if inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod):
                    parts += entry(value, f"{name}.{key}", 3)
    return "\n\n".join(parts)


def kind_of(thing: Any, package: str) -> int:
    """Return the place of a thing's kind on the page."""
    if inspect.isfunction(thing):
        return 0
    return 3 if issubclass(thing, Exception) else 1 if is_own(thing, package) else 2


def is_own(thing: Any, package: str) -> bool:
    """Return whether a class is of a package, and not imported from elsewhere."""
    return str(thing.__module__).startswith(f"{package}.")


def entry(thing: Any, name: str, level: int) -> list[str]:
    """Return heading, signature and docstring of a class, function or property."""
    function = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    heading = f"{'#' * level} `{name}`"
    if isinstance(thing, property):
        return [f"{heading} (property)", prose(function)]
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return [heading, prose(thing)]
    signature = str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()")
    shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)  # annotations are text
    return [heading, f"```text\n{name}{shown}\n```", prose(function)]


def prose(thing: Any) -> str:
    """Return a docstring as Markdown: text, then its sections as lists."""
    text = re.split(r"^(?:Args|Attributes|Returns|Raises|Yields):$", inspect.getdoc(thing) or "", flags=re.MULTILINE)[0]
    parts = [text.strip()]
    for title, entries in sections(thing).items():
        items = [f"- `{name}`: {about}" if about else f"- {name}" for name, about in entries.items()]
        parts.append(f"{title}:\n\n" + "\n".join(items))
    return "\n\n".join(part for part in parts if part)


def first_line(thing: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n")[0]


# --- spaces, presets


def choice_of(gene: Any, value: object) -> str:
    """Return a gene's choice as text: for the kernel None, the default of the blocks that the gene is for."""
    from search_space.stage import default_kernel

    if value is None and gene.field == "kernel":
        return f"{default_kernel(next(iter(gene.when)))} (default)"
    return "none" if value is None else str(value)


def spaces_page() -> str:
    """Return the page of the search spaces and the presets."""
    import torch

    from backbones import build
    from backbones.backbone import count_parameters
    from nas.measure.counts.totals import totals
    from search_space import PRESETS, SPACES
    from search_space.windows import fit_windows

    parts = [
        "# Search spaces and presets",
        "A space is a set of architectures: a stem, up to four stages with a block, depth and width each, and a neck."
        " Stage 1 of a space has the stride of its finest stem, and each further stage has twice the stride of the one"
        " before. An architecture with a coarser stem has no stages before it; choices that begin with `stride16.` are"
        " of stems of stride 16.",
        "Every combination of choices is valid, and two different combinations of choices that have an effect are two"
        " architectures. `backbone-nas profile --space laptop` shows the range of costs.",
        "Which one? `laptop`, the default, is for images of 64 px and a machine without a GPU. It contains `micro`, and"
        " adds blocks of today's fast networks, other kernels, more depth in stages 3 and 4, and stems of stride 16; in"
        " searches of 200 candidates [its fronts were better](../results/index.md#search). `micro` is frozen, so that"
        " new studies compare with published ones. `full` is for images of 224 px and for GPUs. The tables have the"
        " windows for these sizes; a search at another `--img-size` has windows that tile its maps."
        " For other choices, see [below](#your-own-choices); [a space under a name of its"
        " own](../how-to/extending.md#a-space) is an entry in a table.",
    ]
    for space in SPACES.values():
        rows = [(f"`{gene.name}`", ", ".join(choice_of(gene, value) for value in gene.choices)) for gene in space.genes]
        about = f"{space.count():,} architectures ({space.count():.1e}), {len(rows)} choices."
        parts += [f"## `{space.name}`", about, table(["choice", "values"], rows)]
    columns = ["preset", "parameters (M)", "GMACs at 64 px", "GMACs at 224 px", "neck"]
    columns += ["stride", "width", "summary width", "widths of stages"]
    rows = []
    for name in sorted(PRESETS):
        macs = [rounded(totals(fit_windows(PRESETS[name], px), px).macs / 1e9) for px in (64, 224)]
        neck = PRESETS[name].neck
        with torch.device("meta"):
            model = build(PRESETS[name])
        shape = (model.spatial_stride, model.spatial_dim, model.summary_dim, "/".join(map(str, model.widths)))
        parameters = f"{count_parameters(model) / 1e6:.2f}"
        rows.append((f"`{name}`", parameters, *macs, "-" if neck == "none" else neck, *map(str, shape)))
    parts += own_choices()
    parts += [
        "## Presets",
        "Architectures by name, for `--arch`, `--reference` and `timm.create_model`. `eradio_*` are E-RADIO's family;"
        " `eradio_femto`, `eradio_pico` and `eradio_nano` are ours, in its layout, for 64 px. `like_*` are the families"
        " that the paper compares with, and others, in this space's own layout. `timm:NAME` is any network of timm,"
        " unchanged.",
        "Stride and width are those of the spatial tokens: a preset of stride 16 has 14 x 14 = 196 tokens at 224 px."
        " GMACs are those of a search at that size, in which windows tile their maps.",
        table(columns, rows),
    ]
    return "\n\n".join(parts)


# --- teachers


def own_choices() -> list[str]:
    """Return the section on other choices in a space."""
    from search_space.genes import Layout, StageChoices

    rows = [(f"`{part}`", f"`{name}`", in_full(about)) for part, kind in (("stages", StageChoices), ("layouts", Layout))
            for name, about in attributes(kind).items()]  # fmt: skip
    return [
        "## Your own choices",
        "`--choices PART.FIELD=A,B` gives a space fewer choices, or others. Two blocks, and wide first stages:",
        "```bash\nbackbone-nas search --choices stages.blocks=mbconv,convnext --choices stage1.widths=32,48,64\n```",
        "In a settings file, the same is:",
        '```toml\n[choices.stages]\nblocks = ["mbconv", "convnext"]\n[choices.stage1]\nwidths = [32, 48, 64]\n```',
        "A part is `stage1`, `stage2`, ... of the space, `layout1` (stems of stride 4) or `layout2` (stems of stride"
        " 16), or `stages` and `layouts` for all of them, which a single part overrides. Windows are taken as they are"
        " given; the others tile the maps of `--img-size`. `none` stands for a part that is left out, as in"
        " `stages.squeezes=none`. A choice that makes no architecture is refused before the search, with its name. The"
        " study stores the choices: `--resume` and the run folder's `config.toml` repeat them. `plan` and"
        " `profile --space` take them, too. The noise of seeds that a search assumes stays that of the named space. For"
        " other stages, or for new blocks, see [Extending](../how-to/extending.md).",
        table(["parts", "field", "choices"], rows),
    ]


def in_full(about: str) -> str:
    """Return the meaning of a choice for readers who do not have the code: with values for the names of tables."""
    from search_space import arch, genes, stage

    described = {"StageSpec": attributes(stage.StageSpec), "ArchSpec": attributes(arch.ArchSpec)}
    about = re.sub(r"see `(\w+)\.(\w+)`\.?", lambda seen: described[seen[1]][seen[2]].rstrip("."), about)

    def values(found: re.Match[str]) -> str:
        name = found["name"]
        home = next(module for module in (arch, genes, stage) if hasattr(module, name))
        known = [*map(str, getattr(home, name))]
        return ", ".join(sorted(known) if name == "NARROW" else known)

    about = re.sub(r"(keys of|the blocks in)? ?`(?P<name>[A-Z_]+)`", lambda found: f" {values(found)}", about)
    about = re.sub(r"\bNone\b", "`none`", " ".join(about.split()))
    return about if about.endswith(".") else f"{about}."


def teachers_page() -> str:
    """Return the page of the teachers: own ones, the sets, and what each costs."""
    from nas.teachers import SETS, TEACHERS

    names = [*TEACHERS, *dict.fromkeys(name for key, members in SETS.items() if key != "builtin" for name in members)]
    names.append("vit_huge_plus_patch16_dinov3.lvd1689m")
    head = [
        "teacher",
        "px",
        "parameters (M)",
        "GMACs an image",
        "fp32 weights (GB)",
        "summary",
        "spatial",
        "license",
    ]
    rows = [own_teacher(name) if name in TEACHERS else timm_teacher(name) for name in names]
    about = (
        "px: side of one image's input; SAM takes 16 images as one mosaic; the built-in teachers take larger images as"
        " they are. GMACs: counted at this side, for one image. Summary and"
        " spatial: channels. A teacher needs its weights and the activations of a batch in memory; teachers run one"
        " after the other. The license is the one that timm records for the weights: read it at their source before you"
        " use them."
    )
    sets = [(f"`{key}`", ", ".join(f"`{name}`" for name in members)) for key, members in SETS.items()]
    intro = (inspect.getdoc(import_module("nas.teachers")) or "").split("\n\n", 1)[1]
    costs = ["## Costs and licenses", about, table(head, rows)]
    files = [
        "## Files of weights",
        FILES,
        table(["`--teacher-weights` name", "command"], (weight_row(name) for name in names if name not in TEACHERS)),
    ]
    return "\n\n".join(["# Teachers", intro, *costs, *files, "## Sets", table(["set", "teachers"], sets)])


FILES = (
    "A search downloads `model.safetensors` of a network's repository on the Hugging Face hub. Where there is no"
    " network, download it elsewhere by the command, copy it, and give its place by `--teacher-weights NAME=FILE`, with"
    " the network's name without `@PX/N`. This holds for every teacher of timm; most repositories are `timm/NAME`."
)


def weight_row(name: str) -> tuple[str, str]:
    """Return a network's name for --teacher-weights, and the command that downloads its weights."""
    from timm.models import get_pretrained_cfg

    from nas.teachers.timm_networks import parse
    from nas.teachers.weights import download_command

    network = parse(name).network
    return f"`{network}`", f"`{download_command(get_pretrained_cfg(network).hf_hub_id)}`"


def own_teacher(name: str) -> tuple[str, ...]:
    """Return the row of a teacher with a module; built-in ones install their weights if these are missing."""
    import torch

    from nas.measure.counts.macs import MacCountingMode
    from nas.teachers import TEACHERS

    spec, counter = TEACHERS[name], MacCountingMode()
    teacher = spec.load()
    with torch.no_grad(), counter:
        teacher(torch.zeros(1, 3, teacher.source_px, teacher.source_px))
    params = sum(parameter.numel() for parameter in teacher.parameters())
    shapes = (str(teacher.summary_dim), str(teacher.spatial_dim))
    return teacher_row(name, teacher.source_px, params, counter.macs, shapes, spec.license)


def timm_teacher(name: str) -> tuple[str, ...]:
    """Return the row of a network of timm, counted without its weights."""
    from nas.plan.teacher_costs import pass_macs
    from nas.teachers import spec_of
    from nas.teachers.timm_networks import parameters

    spec = spec_of(name, {})
    summary, spatial = spec.widths
    counted = pass_macs(name)
    shapes = (str(summary or "-"), str(spatial))
    macs = counted.macs if counted else 0.0
    return teacher_row(name, spec.source_px, parameters(name), macs, shapes, spec.license)


def teacher_row(
    name: str, px: int, params: int, macs: float, shapes: tuple[str, str], license_name: str | None
) -> tuple[str, ...]:
    """Return one row of the table of teachers."""
    costs = (rounded(params / 1e6), rounded(macs / 1e9), rounded(4 * params / 1e9))
    return (f"`{name}`", str(px), *costs, *shapes, license_name or "unknown")


# --- downstream metrics


def tasks_page() -> str:
    """Return the page of the downstream metrics, from their table."""
    from nas.study.metrics import METRICS

    rows = [(f"`{name}`", m.label, m.measures, m.unit, m.chance, m.data) for name, m in METRICS.items()]
    return "\n\n".join([
        "# Downstream metrics",
        "What the frozen features of a model are good for, on held-out images. Values are 0 to 1, and higher is better."
        " Labels and masks are used here alone. Each metric is also computed for the teachers' own features and for"
        " chance: compare with those, not with published numbers. A teacher's kNN is that of its standardized targets,"
        " whose mean is zero; a model's is that of its own summaries, which are not centered. [Metrics](metrics.md) has"
        " the formulas.",
        table(["name", "metric", "what it measures", "unit", "chance", "data"], rows),
    ])  # fmt: skip


# --- objectives and limits


def objectives_page() -> str:
    """Return the page of objectives and limits, from their tables."""
    from nas.study.limits import LIMITS
    from nas.study.objectives import OBJECTIVES

    objectives = []
    for spec in OBJECTIVES.values():
        o = spec.objective
        goal = "minimized" if o.minimize else "maximized"
        scale = "log2" if o.log else "linear"
        objectives.append((f"`{o.name}`", o.label, o.unit or "-", goal, f"{o.reference:g}", scale))
    limits = [
        (f"`{limit.flag}`", limit.label, limit.help, "after measuring" if limit.measured else "before measuring")
        for limit in LIMITS.values()
    ]
    return "\n\n".join(
        [
            "# Objectives and limits",
            "## Objectives",
            "`--objectives A,B` names them. The reference is the point from which the hypervolume is measured; a value"
            " worse than it adds nothing. An objective that the device and runtime cannot measure is refused before the"
            " search.",
            table(["objective", "meaning", "unit", "goal", "reference", "scale"], objectives),
            "## Limits",
            "A candidate that breaks a limit is infeasible and is not trained. A value equal to the bound keeps the"
            " limit. A limit on a quantity that the device and runtime cannot measure is refused before the search.",
            table(["flag", "quantity", "bound", "checked"], limits),
        ]
    )


# --- the table of trials


def columns_page() -> str:
    """Return the page of the columns of `Study.dataframe`, from their tables and the docstrings of the records."""
    from nas.study.records import Expectation, Measurement
    from reports.dataframe import EVIDENCE_COLUMNS, MEASUREMENT_COLUMNS, NAMED_COLUMNS, NUMBER, TRIAL_COLUMNS, UNITS

    named = {f"measurement/{UNITS.get(name, name)}": about for name, about in attributes(Measurement).items()}
    expected = {f"expected/{UNITS.get(name, name)}": about for name, about in attributes(Expectation).items()}
    columns = [(name, dtype, meaning) for name, (dtype, meaning, _) in TRIAL_COLUMNS.items()]
    columns += [(name, dtype, named[name]) for name, dtype in MEASUREMENT_COLUMNS.items()]
    columns += [(name, *column) for name, column in (EVIDENCE_COLUMNS | NAMED_COLUMNS).items()]
    columns += [(name, NUMBER, about) for name, about in expected.items()]
    about = (
        "`Study.dataframe()` returns this table; `backbone-nas report` writes it with `--csv` or `--parquet`. It has"
        " a row for each trial in the order of their numbers. Comparison networks come last: they have a name in"
        " `scale`, no number and no score. A value that a trial lacks is missing. Names end in their unit; a number"
        " whose name has none is a share, a ratio or a count. The columns whose prefix is `expected/` are what the"
        " sampler expected when it proposed the architecture. The types are those of pandas."
    )
    rows = [(f"`{name}`", dtype, f"{meaning[0].lower()}{meaning[1:]}".rstrip(".")) for name, dtype, meaning in columns]
    return "\n\n".join(["# Columns of the table of trials", about, table(["column", "type", "meaning"], rows)])


MAKERS = {
    "cli": cli_page,
    "config": config_page,
    "recipes": recipes_page,
    "python_api": api_page,
    "spaces": spaces_page,
    "teachers": teachers_page,
    "objectives_and_limits": objectives_page,
    "downstream_metrics": tasks_page,
    "columns": columns_page,
}

if __name__ == "__main__":
    main()
