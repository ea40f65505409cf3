"""Measures the time of `import nnx_alexnet` against the libraries it needs.

    python tests/benchmarks/import_time.py

Times the import statement alone, in a fresh interpreter each time, in turns. An uncounted round
comes first, so that the files are cached and their bytecode is written. Also reports whether torch
was imported.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial

from turns import Contender, in_turns, parse, setting, table

_CODE = """
import sys, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
print("torch" in sys.modules)
"""


def _run(statement: str) -> tuple[float, bool]:
    code = _CODE.format(statement=statement)
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    seconds, torch = output.split()[-2:]
    return float(seconds), torch == "True"


def _seconds(statement: str, arguments: argparse.Namespace) -> float:
    return _run(statement)[0]


STATEMENTS = {
    "ours": ("import nnx_alexnet", ()),
    "flax": ("import flax.nnx, optax", ()),
    "jax": ("import jax", ()),
    "lightning": ("import lightning", ("lightning",)),
    "keras": ("import keras", ("keras",)),
}
CONTENDERS = {
    name: Contender(f"`{statement}`", partial(_seconds, statement), needs, is_peer=name == "flax")
    for name, (statement, needs) in STATEMENTS.items()
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    arguments = parse(parser, CONTENDERS, rounds=7)
    print(setting(["flax", "optax", "jax", "lightning", "keras"]))
    warm = argparse.Namespace(**{**vars(arguments), "rounds": 1})
    in_turns(warm, CONTENDERS)
    values = in_turns(arguments, CONTENDERS)
    print(table(values, CONTENDERS, unit="seconds", digits=2, less_is_better=True))
    loads = "loads" if _run(STATEMENTS["ours"][0])[1] else "does not load"
    print(f"`import nnx_alexnet` {loads} torch.")


if __name__ == "__main__":
    main()
