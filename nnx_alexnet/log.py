"""The one logger of the package; it prints to standard error unless the program configured it."""

import logging

logger = logging.getLogger("nnx_alexnet")

if not logger.handlers and not logging.getLogger().handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(_handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
