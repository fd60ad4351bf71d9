#!/usr/bin/env python
"""The cost of an outer step on many GPUs: compute, bytes reduced, and where the network binds (docs/SCALING.md).

scripts/scaling.py                                      base, 8, 64 and 512 GPUs, the constants below
scripts/scaling.py --size small --max-tokens 4000
scripts/scaling.py --rate 300e12 --between 25e9        constants that you have measured
"""

from __future__ import annotations

import argparse

from metanmt.commands.shared import positive
from metanmt.nmt.model import SIZES
from metanmt.report import table

GPUS_A_NODE = 8
GRADIENT_BYTES = 4  # float32


def parameters(size: str, vocabulary: int) -> tuple[int, int, int]:
    """Return the weights that a source token, a target token's decoder, and its output projection pass through."""
    width, feed_forward, layers, _ = SIZES[size]
    encoder = layers * (4 * width * width + 2 * width * feed_forward)
    decoder = layers * (8 * width * width + 2 * width * feed_forward)
    return encoder, decoder, vocabulary * width


def main() -> None:
    """Print the table of the cost model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument(
        "--max-tokens", type=int, default=32_000, help="target tokens of an episode, or of a batch of joint training"
    )
    parser.add_argument("--tasks", type=positive, default=1, help="a GPU and outer step")
    parser.add_argument("--gpus", type=positive, nargs="+", default=[8, 64, 512])
    parser.add_argument("--rate", type=float, default=0.35 * 989e12, help="FLOP/s that training reaches on a GPU")
    parser.add_argument("--inside", type=float, default=450e9, help="bytes/s a GPU sends inside a node")
    parser.add_argument("--between", type=float, default=50e9, help="bytes/s a GPU sends between nodes")
    arguments = parser.parse_args()

    encoder, decoder, output = parameters(arguments.size, arguments.vocabulary)
    weights = encoder + decoder + output
    flops = 6 * arguments.max_tokens * weights  # as many source as target tokens; 2 forward, 4 backward
    compute = arguments.tasks * flops / arguments.rate
    gradient = GRADIENT_BYTES * weights
    print(f"{arguments.size}: {weights / 1e6:.1f} M weights, {gradient / 1e6:.0f} MB of gradient an outer step")
    print(f"compute: {arguments.tasks} episodes of {flops / 1e12:.1f} TFLOP a GPU\n")
    rows = []
    for gpus in arguments.gpus:
        nodes = -(-gpus // GPUS_A_NODE)
        inside = min(gpus, GPUS_A_NODE)
        sent = 2 * gradient * (inside - 1) / inside  # reduce-scatter and all-gather inside the node
        between = 2 * gradient / inside * (nodes - 1) / nodes  # every GPU reduces its share with its peers
        network = sent / arguments.inside + between / arguments.between
        binding = arguments.max_tokens * network / compute
        rows.append(
            [
                f"{gpus}",
                f"{compute * 1e3:.1f}",
                f"{(sent + between) / 1e6:.0f}",
                f"{network * 1e3:.2f}",
                f"{compute / (compute + network):.1%}",
                f"{binding:,.0f}",
            ]
        )
    header = ["GPUs", "compute ms", "MB sent a GPU", "network ms", "efficiency", "binds below max_tokens"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
