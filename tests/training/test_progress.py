"""`Progress`: the counters of a run, what it publishes, and what a checkpoint holds of both."""

import json

from nnx_alexnet.training.progress import Progress


def progress_of(*, epochs=0, steps=0):
    """A progress after whole epochs of four steps, and some steps of the next one."""
    progress = Progress(lambda metrics, step: None)
    for _ in range(epochs):
        progress.begin_epoch()
        progress.advance(num_steps=4, num_examples=32)
        progress.end_epoch(is_whole=True)
    if steps:
        progress.begin_epoch()
        progress.advance(num_steps=steps - 1, num_examples=8 * (steps - 1))
        progress.advance(num_steps=1, num_examples=8)
    return progress


def counters(progress):
    return (
        progress.epoch, progress.step_in_epoch, progress.global_step, progress.is_epoch_open
    )  # fmt: skip


def test_steps_open_an_epoch_and_its_end_begins_the_next_one():
    progress = progress_of(epochs=2, steps=3)
    assert counters(progress) == (2, 3, 11, True)
    assert progress.num_examples == 24
    progress.end_epoch(is_whole=True)
    assert counters(progress) == (3, 0, 11, False)


def test_an_epoch_that_has_batches_left_stays_the_current_one():
    progress = progress_of(epochs=1, steps=2)
    progress.end_epoch(is_whole=False)
    assert counters(progress) == (1, 2, 6, False)


def test_published_metrics_keep_their_newest_value_and_its_step():
    calls = []
    progress = Progress(lambda metrics, step: calls.append((dict(metrics), step)))
    progress.publish({"lr": 0.5, "train/loss_step": 3.0}, 4)
    progress.publish({"lr": 0.25}, 9)
    assert progress.metrics == {"lr": 0.25, "train/loss_step": 3.0}
    assert progress.metric_steps == {"lr": 9, "train/loss_step": 4}
    assert calls == [({"lr": 0.5, "train/loss_step": 3.0}, 4), ({"lr": 0.25}, 9)]


def test_metrics_are_known_before_callbacks_are_told():
    progress = Progress(lambda metrics, step: seen.append(dict(progress.metrics)))
    seen = []
    progress.publish({"val/loss": 1.0}, 1)
    assert seen == [{"val/loss": 1.0}]


def test_a_value_counts_for_the_step_at_which_it_was_measured_alone():
    progress = progress_of(epochs=1)
    progress.publish({"val/loss": 0.5}, 4)
    assert progress.current_value("val/loss") == 0.5
    assert progress.current_value("val/accuracy") is None
    assert progress.current_value(None) is None
    progress.advance(num_steps=1, num_examples=8)
    assert progress.current_value("val/loss") is None


def test_a_row_gathers_what_is_published_until_it_ends():
    progress = progress_of(steps=4)
    progress.publish({"before": 1.0}, 4)
    progress.begin_row()
    progress.publish({"val/loss": 0.5}, 4)
    progress.publish({"my/score": 2.0}, 4)
    progress.end_row(keeps=True)
    progress.publish({"after": 1.0}, 4)
    assert progress.history == [{"epoch": 0, "step": 4, "val/loss": 0.5, "my/score": 2.0}]


def test_a_row_has_the_last_value_that_a_callback_logged_in_the_epoch():
    progress = progress_of(steps=4)
    progress.log({"a": 1.0, "b": 1.0})
    progress.log({"a": 2.0, "lr": 3.0})
    progress.begin_row()
    progress.publish({"lr": 0.5}, 4)
    progress.log({"b": 4.0})
    progress.end_row(keeps=True)
    progress.end_epoch(is_whole=True)
    assert progress.history == [{"epoch": 0, "step": 4, "lr": 0.5, "a": 2.0, "b": 4.0}]
    progress.begin_row()
    progress.end_row(keeps=True)
    assert progress.history[1] == {"epoch": 1, "step": 4}


def test_a_row_that_is_not_kept_leaves_no_trace():
    progress = progress_of(steps=4)
    progress.begin_row()
    progress.publish({"train/loss": 0.5}, 4)
    progress.end_row(keeps=False)
    assert progress.history == []
    assert progress.metrics == {"train/loss": 0.5}


def test_the_reason_to_stop_survives_a_request_of_another_process():
    progress = progress_of()
    progress.stop(None)
    assert progress.stop_reason == "another process requested it"
    progress.stop("good enough")
    progress.stop(None)
    assert progress.stop_reason == "good enough"


def published(*, epochs, steps=0):
    progress = progress_of(epochs=epochs, steps=steps)
    progress.begin_row()
    progress.publish({"val/loss": 0.5}, progress.global_step)
    progress.end_row(keeps=True)
    progress.log({"my/score": 0.25})
    progress.stop("enough")
    return progress


def test_a_restored_progress_is_equal_to_the_saved_one():
    saved = published(epochs=2, steps=3)
    restored = Progress(lambda metrics, step: None)
    restored.restore(json.loads(json.dumps(saved.to_json())) | {"callbacks": {}})
    assert restored.to_json() == saved.to_json()
    assert counters(restored) == (2, 3, 11, True)
    assert restored.metric_steps == {"val/loss": 11, "my/score": 11}
    assert type(restored.history) is type(saved.history)


def test_a_repeated_epoch_starts_from_its_first_batch():
    saved, restored = published(epochs=2, steps=3), progress_of()
    restored.restore(saved.to_json(), repeats_epoch=True)
    assert counters(restored) == (2, 0, 11, False)


def test_an_epoch_without_a_step_has_nothing_to_repeat():
    saved, restored = published(epochs=2), progress_of()
    restored.restore(saved.to_json(), repeats_epoch=True)
    assert counters(restored) == (2, 0, 8, False)
