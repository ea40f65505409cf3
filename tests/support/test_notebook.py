import sys
from types import SimpleNamespace

import pytest
from notebook import FakeNotebook

from nnx_alexnet.support import NotebookOutput, is_notebook


@pytest.mark.parametrize(
    ("shell", "expected"),
    [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=object()), True)],
    ids=["plain Python", "IPython in a terminal", "a kernel"],
)
def test_only_ipython_with_a_kernel_is_a_notebook(monkeypatch, shell, expected):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert is_notebook() is expected


def test_an_output_is_created_once_and_then_replaced(monkeypatch):
    notebook = FakeNotebook.install(monkeypatch)
    output = NotebookOutput()
    output.show("<b>1</b>", "1")
    output.show("<b>2</b>", "2")
    assert notebook.outputs == [{"text/html": "<b>2</b>", "text/plain": "2"}]
    assert [each["text/plain"] for each in notebook.drawn] == ["1", "2"]
