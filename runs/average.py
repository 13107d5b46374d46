"""The weighted mean of two checkpoints, one of them fine-tuned from the other, with a threshold to go with it.

    python runs/average.py ONE OTHER OUT --share 0.8 [--threshold 0.45]

share: of OTHER. Between a network and its fine-tuned copy lie networks that are good at both tasks (Wortsman et al.
2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rallytrace.checkpoint import load_checkpoint, save_checkpoint


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("one", type=Path)
    arguments.add_argument("other", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--share", type=float, default=0.5)
    arguments.add_argument("--threshold", type=float)
    options = arguments.parse_args()
    one, other = load_checkpoint(options.one)[0], load_checkpoint(options.other)[0]
    spec, before, after = one.spec, one.state_dict(), other.state_dict()
    mean = {
        name: value.lerp(after[name], options.share) if value.dtype.is_floating_point else after[name]
        for name, value in before.items()
    }
    if options.threshold is not None:
        spec = replace(spec, threshold=options.threshold)
    origin = {"mean of": [options.one.parent.name, options.other.parent.name], "share of the second": options.share}
    save_checkpoint(options.out, spec, mean, origin)
    print(options.out)


if __name__ == "__main__":
    main()
