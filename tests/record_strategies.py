"""Hypothesis strategies for the records of a run: plausible, extreme and damaged ones."""

import json

from hypothesis import strategies as st

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**53, 2**63, 1e308, -1e308, 5e-324, -1])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["finished", "0001-01-01T00:00:00+2359", "9999-12-31T23:59:59-2359"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = ["step", "epoch", "val/loss", "val/accuracy", "train/loss", "train/loss_step", "lr",
         "perf/images_per_second", "test/accuracy", "run", "status", "best_steps", "val/\n|\x1b[2J",
         "val/$\\frac", "<b>", "duration"]  # fmt: skip
ANY_ROWS = st.lists(
    st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=5).map(json.dumps).map(str.encode)
    | st.builds(
        lambda step, rest: json.dumps({"step": step, "epoch": 0, **rest}).encode(),
        st.integers(0, 2**53),
        st.dictionaries(st.sampled_from(_NAMES[2:]), _JSON, max_size=4),
    )
    | st.binary(max_size=30),
    max_size=5,
).map(b"\n".join)
ANY_ENVIRONMENTS = (
    st.dictionaries(
        st.sampled_from(
            ["status", "before", "started", "ended", "seconds", "stop_reason", "error",
             "command", "packages", "devices", "git_commit"]
        ),
        _JSON,
    ).map(json.dumps).map(str.encode)
    | st.binary(max_size=30)
    | st.sampled_from([b"", b"[" * 100_000, b'{"a": ' * 2000, b"\x00" * 9, b'{"a": "\xff"}'])
)  # fmt: skip
