"""Time cambook against the libraries that a reader would use instead.

    make bench                                    # every row, on the CPU
    make bench ARGS="--rows engine grad_cam"
    make bench ARGS="--device cuda --store"       # keep the figures in BENCHMARKS.md

Each row is measured in interleaved rounds, so that a busy minute hits everybody. What is finished is written
to build/bench/DEVICE.json at once, and drawn at the end; a later call for the same device adds its rows.
"""

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

import harness
import kernel_rows
import report
import rows

ROWS = rows.ROWS | kernel_rows.ROWS
ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build" / "bench"
ROUNDS = 5


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"timed calls of each ({ROUNDS})")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/benchmarks/results/")
    parser.add_argument("--peak", nargs=2, metavar=("ROW", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here: leave --device out to measure on the CPU.")
    if options.peak:
        row, name = options.peak
        print(peak(ROWS[row](options.device), name, options.device))
        return

    BUILD.mkdir(parents=True, exist_ok=True)
    kept = BUILD / f"{options.device}.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {"rows": {}}
    with tqdm(total=len(options.rows), unit=" rows") as bar:
        for name in options.rows:
            bar.set_description(name)
            row = ROWS[name](options.device)
            found["rows"][name] = measure(row, options, bar.set_description)
            found["rows"] = {known: found["rows"][known] for known in ROWS if known in found["rows"]}
            found |= {"date": date.today().isoformat()} | {"machine": harness.machine(options.device)}
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(kept)
            bar.update()
            tqdm.write(report.table(name, found["rows"][name]), file=sys.stdout)
    report.chart(found, kept.with_suffix(".png"))
    print(f"figures: {kept.relative_to(ROOT)}   chart: {kept.with_suffix('.png').relative_to(ROOT)}")
    if options.store:
        report.store(found, options.device)
        print("stored in BENCHMARKS.md")


def measure(row: harness.Row, options: argparse.Namespace, progress) -> dict:
    """The row as it goes into the JSON."""
    if row.measures == "megabytes":
        results = {}
        for contender in (*row.ours, *row.others):
            progress(f"{row.name}: {contender.name}")
            results[contender.name] = harness.Result(in_own_process(row, contender.name, options.device))
    else:
        results = harness.compare(row, options.rounds, options.device, progress)
    return {
        "title": row.title, "ratio": row.ratio, "goal": row.goal, "note": row.note,
        "measures": row.measures, "bytes": row.bytes,
        "ours": [contender.name for contender in row.ours],
        "results": {
            name: {"figures": result.figures, "forwards": result.forwards} for name, result in results.items()
        },
    }    # fmt: skip


def in_own_process(row: harness.Row, name: str, device: str) -> list[float]:
    command = [sys.executable, __file__, "--device", device, "--peak", row.name, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed in row {row.name}:\n{done.stderr[-2000:]}")
    return [float(done.stdout.split()[-1])]


def peak(row: harness.Row, name: str, device: str) -> float:
    [contender] = [contender for contender in (*row.ours, *row.others) if contender.name == name]
    return harness.peak_megabytes(contender, device)


if __name__ == "__main__":
    main()
