"""Each published system's search as a config of merge3, on the quickstart's tiny models.

    python examples/systems/run.py [NAME ...] [--out demo-out]

The models are those of ``make demo``, trained if they are not there; the checkpoints for ``recycle`` come from the same
trainings. Every config beside this file runs from the folder that holds ``models`` and ``data``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "quickstart"))

import demo  # noqa: E402
from checkpoints import prepare_checkpoints  # noqa: E402
from train import Settings, prepare  # noqa: E402

SYSTEMS = sorted(path.stem for path in HERE.glob("*.yml"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", metavar="NAME", help=f"of {', '.join(SYSTEMS)}  [all]")
    parser.add_argument("--seed", type=int, default=0, help="seed of items, models and searches  [0]")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to make everything in  [demo-out]")
    options = parser.parse_args()
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"expected names among {', '.join(SYSTEMS)}; got {', '.join(sorted(unknown))}")
    settings = Settings(seed=options.seed)
    prepare(options.out, settings)
    for system in options.systems or SYSTEMS:
        if system == "recycle":
            prepare_checkpoints(options.out, settings)
        demo.evolve(options.out, options.seed, config=HERE / f"{system}.yml", run_folder=system)


if __name__ == "__main__":
    main()
