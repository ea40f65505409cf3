"""What the tests of the task package share."""

import pytest
from helpers import linear_trainer


@pytest.fixture
def refused(tmp_path):
    """Checks that a task is an error for each method, before anything is compiled or written."""

    def run(task, match, methods=("fit", "validate", "test"), **arguments):
        for method in methods:
            trainer = linear_trainer(task, log_dir=tmp_path, **arguments)
            with pytest.raises(ValueError, match=match) as raised:
                getattr(trainer, method)()
            assert "`model`, `data` and `task` do not fit together" in str(raised.value)
            assert trainer.num_compilations in ({}, {"evaluate": 0})
            assert not any(tmp_path.iterdir())

    return run
