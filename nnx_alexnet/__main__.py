"""`python -m nnx_alexnet` is the command `nnx-alexnet`."""

from nnx_alexnet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
