"""How far does low precision move the outputs of random networks, and what tells how far it may?

    python -m experiments.benchmarks.rounding --networks 12 --block bn_attention

Random architectures of a space, random weights, two images. For each: the error of eager outputs in bf16 and fp32, as
they are measured (fused, channels-last), against fp32 eager; and that of fp32 eager whose weights are perturbed by as
much as the precision rounds them, the largest of three. `nas.measure.output_check` takes twice the latter for rounding.

Hardware: CPU, one thread; some ten seconds a network at 224 px.
Expected: see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import random

import torch

from backbones import build
from nas.measure.output_check import check, expected_outputs, perturbation_error
from nas.measure.prepare import prepare_subject
from nas.measure.runtime_spec import Arm
from search_space import SPACES

SPACINGS = {"bf16": 2**-7, "fp32": 2**-23}  # of the numbers next to 1; on a CPU fp32 is not TF32


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="full")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--block", help="only networks with this block (default: all)")
    parser.add_argument("--px", type=int, default=224)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng, cpu, found = random.Random(0), torch.device("cpu"), 0
    images = torch.randn(2, 3, arguments.px, arguments.px, generator=torch.Generator().manual_seed(1))
    while found < arguments.networks:
        spec = SPACES[arguments.space].sample(rng)
        blocks = [stage.block for stage in spec.stages]
        if arguments.block not in (None, *blocks):
            continue
        found += 1
        torch.manual_seed(0)
        model = build(spec).eval()
        cells = []
        for precision, spacing in SPACINGS.items():
            subject = prepare_subject(model, Arm("eager", precision), (images,), len(images), cpu)
            error = check(subject.run, subject.buffers[0], expected_outputs(model, images, precision)).error
            perturbed = perturbation_error(model, images, spacing)
            cells.append(f"{precision} {error:.2g}, perturbed {perturbed:.2g}, quotient {error / perturbed:.2f}")
        print(f"{spec.arch_id} {'+'.join(blocks)}: {'; '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
