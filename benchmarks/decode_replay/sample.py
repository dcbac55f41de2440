"""The samples in `data/`: some rows of each trace, drawn without replacement, the two lengths alone.

python -m equipoise.benchmarks.decode_replay.sample --traces DIR [--rows 1500] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .traces import SAMPLES, TRACES, read_trace


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR", help="the folder of the whole traces")
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    SAMPLES.mkdir(exist_ok=True)
    for name in TRACES.values():
        trace = read_trace(options.traces / name)
        rows = np.random.default_rng(options.seed).choice(len(trace), min(options.rows, len(trace)), replace=False)
        lines = [f"{trace.tokens[row]},{trace.output[row]}" for row in np.sort(rows)]
        (SAMPLES / name).write_text("\n".join(["input_tokens,output_tokens", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
