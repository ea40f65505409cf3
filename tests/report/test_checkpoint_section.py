import re

from saved_runs import save_all, small

from nnx_alexnet.checkpoints import Checkpoints
from nnx_alexnet.report.checkpoint_section import checkpoint_table, read_checkpoints


def cells(html):
    rows = re.findall("<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_the_table_names_the_best_the_latest_and_the_measured_checkpoint(tmp_path):
    values = {10: 0.75, 20: 0.5, 30: 0.625, 40: 0.875}
    save_all(tmp_path / "checkpoints", values, monitor="val/loss", keep_best=1, keep_latest=2)
    kept = read_checkpoints(tmp_path)
    assert [*kept] == [20, 30, 40]
    assert cells(checkpoint_table(kept, 20)) == [
        ["step", "epochs", "val/<wbr>loss", "kept as"],
        ["20", "", "0.5000", "best by val/loss, measured in this report"],
        ["30", "", "0.6250", "one of the best or the latest"],
        ["40", "", "0.8750", "latest"],
    ]


def test_without_a_ranking_no_checkpoint_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(10, small(10), {"global_step": 10, "epoch": 3})
    checkpoints.close()
    html = checkpoint_table(read_checkpoints(tmp_path), None)
    assert cells(html)[1:] == [["10", "3", "", "latest"]]


def test_damaged_checkpoints_are_left_out(tmp_path):
    save_all(tmp_path / "checkpoints", {10: None, 20: None}, keep_latest=2)
    (tmp_path / "checkpoints/20/loop/metadata").write_text("{")
    assert [*read_checkpoints(tmp_path)] == [10]
    assert "no checkpoint that can be read" in checkpoint_table(read_checkpoints(tmp_path / "x"), 4)


def test_of_many_checkpoints_the_latest_are_shown():
    loop = {"ranking": {"monitor": None, "mode": "min", "value": None}}
    html = checkpoint_table(dict.fromkeys(range(1, 31), loop), None)
    assert len(cells(html)) == 21
    assert "The 10 earlier checkpoints are left out." in html
