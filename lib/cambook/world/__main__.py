"""python -m cambook.world train NAME | evaluate NAME"""

import argparse
from pathlib import Path

from . import networks


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cambook.world", description=__doc__)
    parser.add_argument("action", choices=("train", "evaluate"))
    parser.add_argument("name", choices=networks.NAMES)
    parser.add_argument("--folder", type=Path, default=Path("build/world"), help="where data and checkpoints are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.action == "train":
        from .train import train
        print(f"weights: {train(options.name, options.folder, options.seed)}")
    else:
        from .evaluate import publish
        facts = publish(options.name, options.folder)
        print(f"{options.name}: accuracy {facts['accuracy']:.2%}, both of two in the top 2 {facts['both_in_top_2']:.1%}")


if __name__ == "__main__":
    main()
