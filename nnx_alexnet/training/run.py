"""`Run`: the folder of a run, its lock and its checkpoints, from opening to closing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnx_alexnet.callbacks import ModelCheckpoint
from nnx_alexnet.checkpoints import (
    Checkpoint,
    Checkpoints,
    Difference,
    check_same,
    read_checkpoint,
)
from nnx_alexnet.devices import is_main, on_main
from nnx_alexnet.runs import RunLock, choose_run_dir, write_end, write_record
from nnx_alexnet.support import first_line, logger
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.settings import Settings


class Run:
    """Holds the outputs of one `fit`; only the first process has the lock and the checkpoints.

    Args:
        settings: the name and the parent folder.
        config: the content of `config.yaml`.
        progress: contains the stop reason, which is recorded at the end of the run.
        requests: contain whether a signal ended the run.
        on_saved: called when the run has a checkpoint from which it can resume.

    Attributes:
        run_dir: the folder; None before `open` and without a `log_dir`.
        checkpoints: the store; None in other processes and without a `log_dir`.
        identity: the values that a resumed run must share with this one; see `run_identity`.
        about_data: a description of the data, for a checkpoint.
    """

    def __init__(
        self,
        settings: Settings,
        config: Mapping[str, object],
        progress: Progress,
        requests: Requests,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_dir: Path | None = None
        self.checkpoints: Checkpoints | None = None
        self.identity: Mapping[str, Any] = {}
        self.about_data: Mapping[str, Any] = {}
        self.on_saved = on_saved
        self._settings = settings
        self._config = config
        self._progress = progress
        self._requests = requests
        self._began = time.monotonic()
        self._lock: RunLock | None = None
        self._saved: Checkpoint | None = None  # read when the folder was opened

    def check_resume(self, resume: str | Path, accept: Sequence[str]) -> None:
        """Checks the arguments of `fit`.

        Raises:
            ValueError: they contradict each other or `log_dir`.
        """
        if accept and resume == "never":
            raise ValueError(
                f'`accept` (={list(accept)}) works only with `resume`: pass resume="auto" or the '
                "folder of a run."
            )
        if self._settings.log_dir is None and resume != "never":
            raise ValueError(
                f"`resume` (={str(resume)!r}) needs a `log_dir` to resume from. There is none with "
                "`log_dir=None`, or with `fast_dev_run`."
            )

    def open(
        self,
        resume: str | Path,
        accept: Sequence[str],
        *,
        identity: Mapping[str, Any],
        about_data: Mapping[str, Any],
        policy: ModelCheckpoint,
        parameter_names: Sequence[str],
        check_saved: Callable[[Path], None] = lambda _: None,
    ) -> tuple[Checkpoint | None, list[str]]:
        """Opens the folder of a new run, or of the one to resume.

        Args:
            resume: see `Trainer.fit`.
            accept: see `Trainer.fit`.
            identity: the identity of this run.
            about_data: a description of its data.
            policy: which checkpoints to keep.
            parameter_names: the names of the parameters that must be finite to be saved.
            check_saved: called with the folder of the run to resume before it is changed (default:
                nothing).

        Returns:
            The checkpoint to resume from, if there is one, and the paths of the accepted
            differences.
        """
        self.identity, self.about_data = identity, about_data
        where, step, accepted = on_main(
            lambda: self._open_folder(resume, accept, policy, parameter_names, check_saved)
        )
        self.run_dir = Path(where)  # not earlier: the folder may be of another run
        if self._saved is None and step is not None:
            self._saved = read_checkpoint(self.run_dir / "checkpoints" / str(step))
        saved, self._saved = self._saved, None
        return saved, accepted

    def _open_folder(
        self,
        resume: str | Path,
        accept: Sequence[str],
        policy: ModelCheckpoint,
        parameter_names: Sequence[str],
        check_saved: Callable[[Path], None],
    ) -> tuple[str, int | None, list[str]]:
        """Opens the folder in the first process.

        Returns:
            The path of the folder, the step to resume from, and the paths of the accepted
            differences.
        """
        assert self._settings.log_dir is not None
        run_dir = choose_run_dir(self._settings.log_dir, self._settings.name, resume)
        self._lock = RunLock(run_dir)
        self.checkpoints = Checkpoints(
            run_dir / "checkpoints",
            keep_latest=policy.keep_latest,
            monitor=policy.ranked_by,
            mode=policy.mode,
            keep_best=policy.save_top_k,
            on_error=policy.on_error,
            finite=parameter_names if self._settings.check_finite else (),
            synced=[run_dir / "metrics.jsonl"],
        )
        accepted: list[Difference] = []

        def check(loop: Mapping[str, Any]) -> None:
            accepted[:] = check_same(loop, self.identity, run_dir, accept)
            check_saved(run_dir)

        self._saved = self.checkpoints.restore(check)
        write_record(run_dir, self._config)
        step = None if self._saved is None else self._saved.step
        return str(run_dir), step, [each.name.partition(".")[2] for each in accepted]

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Closes the checkpoints, records the end and releases the lock, however the run ends."""
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                if self.checkpoints is not None:
                    self.checkpoints.close()
                    if self.checkpoints.steps:
                        self.on_saved()
            except Exception as error:
                if failure is None:
                    failure = error
                    raise
                logger.error("Saving a checkpoint also failed: %s", error)
            finally:
                try:
                    self._record_end(failure)
                finally:
                    if self._lock is not None:
                        self._lock.close()

    def _record_end(self, failure: BaseException | None) -> None:
        """Records how the run ended; an error here is only logged as a warning."""
        if self.run_dir is None or not is_main():
            return
        seconds = round(time.monotonic() - self._began, 3)
        try:
            if failure is not None and not isinstance(failure, KeyboardInterrupt):
                error = f"{type(failure).__name__}: {first_line(failure)}"
                write_end(self.run_dir, "failed", seconds=seconds, error=error)
            else:
                is_cut_short = self._requests.is_cut_short or failure is not None
                status = "interrupted" if is_cut_short else "finished"
                reason = self._progress.stop_reason
                write_end(self.run_dir, status, seconds=seconds, stop_reason=reason)
        except Exception as error:
            logger.warning("environment.json could not be written: %s", error)
