"""Event files as tbparse reads them."""

import numpy as np
import pytest

from nnx_alexnet.dashboard.content import begin_session, end_session, write_columns, write_texts
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = {"seed": 3, "optimizer": {"learning_rate": 0.5}}
    writer = TensorBoardWriter(folder)
    begin_session(writer, config=config, metric_names=["train/loss", "val/loss"], first_step=0)
    write_texts(writer, step=0, config=config, summary="layers")
    for step in (1, 2):
        writer.write_scalars(step, {"train/loss": 1 / step, "lr": 0.5})
    writer.write_histograms(2, {"parameters/a": np.arange(4.0)}, {"parameters/a": 3})
    writer.write_images(2, {"val/mistakes": np.zeros((5, 7, 3), np.uint8)})
    write_columns(writer, config=config, metric_names=["train/loss"])
    end_session(writer, success=True)
    writer.close()
    return folder


@pytest.mark.filterwarnings("ignore")
def test_tbparse_finds_scalars_histograms_texts_and_hyperparameters(run):
    tbparse = pytest.importorskip("tbparse")
    reader = tbparse.SummaryReader(str(run), pivot=True)
    rows = reader.scalars.set_index("step")
    assert rows["train/loss"].tolist() == [1.0, 0.5]
    assert rows["x_lr"].tolist() == [0.5, 0.5]
    histograms = reader.histograms
    assert histograms["step"].tolist() == [2]
    assert histograms["z_parameters/a/limits"][0].tolist() == [1.0, 2.0, 3.0]
    assert histograms["z_parameters/a/counts"][0].tolist() == [1.0, 1.0, 2.0]
    assert reader.hparams.to_dict("records") == [{"seed": 3.0, "optimizer.learning_rate": 0.5}]
    assert "seed: 3" in reader.text["config"][0]
