"""The address of process 0 is checked before JAX uses it."""

import re
import socket
import threading
import time

import pytest

from nnx_alexnet.devices.coordinator import (
    check_members,
    check_port_is_free,
    wait_until_reachable,
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("10.0.0.1", 2, 0), "`coordinator` (='10.0.0.1') must be the address"),
        (("10.0.0.1:1", 2, 2), "`process_id` (=2) must be from 0 to one less"),
        (("10.0.0.1:1", 2, None), "`process_id` must be given"),
        ((None, None, 3), "`coordinator`, `num_processes` must be given"),
    ],
)
def test_incomplete_or_invalid_members_are_refused(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        check_members(*arguments)


def test_a_free_port_passes_and_a_used_one_is_refused():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"localhost:{listener.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"\(='{address}'\) cannot be used by process 0"):
            check_port_is_free(address)
    check_port_is_free(address)


def test_a_port_number_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"0-65535\. It must be a free port"):
        check_port_is_free("localhost:99999")


def test_waiting_ends_when_somebody_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.3, reserved.listen)
        timer.start()
        wait_until_reachable(f"127.0.0.1:{reserved.getsockname()[1]}", 10)
        timer.join()


def test_waiting_ends_with_an_error_when_nobody_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=rf"`coordinator` \(='{address}'\) could not be"):
            wait_until_reachable(address, 1)
    assert time.monotonic() - started < 5
