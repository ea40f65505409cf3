"""Measures the seconds from starting the command to a trained model, and its test accuracy.

    python tests/benchmarks/time_to_accuracy.py -- --data fashion_mnist --data.root PATH

The options after `--` are passed to `nnx-alexnet fit`, which runs twice with one seed: with an
empty compilation cache, and with the cache that the first run left. The time is that of the whole
process, including imports, loading and compilation. `nnx-alexnet test` then evaluates the model,
outside the measured time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from turns import markdown, setting


def _run(*argv: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nnx_alexnet", *argv],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"nnx-alexnet {' '.join(argv)} ended with {done.returncode}.")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("options", nargs="*", help="of `nnx-alexnet fit`, after `--`")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for cache in ("cold", "warm"):
            where = ["--trainer.log_dir", folder, "--trainer.name", cache]
            began = time.perf_counter()
            _run("fit", *arguments.options, *where, environment=environment)
            seconds = time.perf_counter() - began
            found = _run("test", "--json", f"{folder}/{cache}/version_0", environment=environment)
            accuracy = json.loads(found)["test/accuracy"]
            rows.append((cache, f"{seconds:.1f}", f"{accuracy:.4f}"))
    print(setting(["jax", "flax"]))
    print(f"nnx-alexnet fit {' '.join(arguments.options)}")
    print(markdown(("compilation cache", "seconds", "test accuracy"), rows))


if __name__ == "__main__":
    main()
