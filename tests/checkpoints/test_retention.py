"""Which checkpoints are kept."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet.checkpoints.retention import Ranking, Retention, kept_steps

VALUES = st.one_of(st.floats(-5, 5), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(
    values=st.dictionaries(st.integers(0, 50), VALUES, max_size=12),
    unranked=st.sets(st.integers(0, 50), max_size=6),
    keep_latest=st.integers(0, 4),
    keep_best=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
)
@settings(deadline=None)
def test_the_latest_and_the_best_are_kept(values, unranked, keep_latest, keep_best, mode):
    steps = sorted({*values, *unranked})
    options = {"keep_latest": keep_latest, "keep_best": keep_best, "mode": mode}
    kept = kept_steps(steps, values, **options)
    latest = set(steps[-keep_latest:]) if keep_latest else set()
    assert latest <= kept <= set(steps)
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    best = kept - latest
    assert all(step in finite for step in best), "a value that is not finite is never best"
    assert len(kept & set(finite)) >= min(keep_best, len(finite))
    if keep_best and finite:
        extreme = (min if mode == "min" else max)(finite.values())
        assert extreme in {finite[step] for step in kept if step in finite}
    # What was removed is never missed later: the kept ones alone choose the same.
    assert kept_steps(sorted(kept), values, **options) == kept


def test_a_ranking_survives_the_way_through_json():
    ranking = Ranking("val/loss", "min", 0.5)
    assert Ranking.of({"ranking": {**ranking._asdict(), "added": 1}}) == ranking


def test_values_of_another_metric_do_not_rank():
    kept = Retention("val/loss", "min", keep_latest=1, keep_best=1)
    kept.add(1, {"ranking": {"monitor": "val/accuracy", "mode": "max", "value": 0.1}})
    kept.add(2, {"ranking": kept.ranking(0.5)._asdict()})
    kept.add(3, {"ranking": kept.ranking(None)._asdict()})
    assert kept.values == {2: 0.5}
    assert kept.superfluous() == [1]


def test_a_later_checkpoint_of_a_step_replaces_the_earlier_one():
    kept = Retention("val/loss", "min", keep_latest=1, keep_best=1)
    kept.add(1, {"ranking": kept.ranking(0.5)._asdict()})
    kept.add(1, {"ranking": kept.ranking(None)._asdict()})
    assert (kept.steps, kept.best()) == ([1], (None, None))
    kept.remove(1)
    kept.remove(1)
    assert kept.steps == []
