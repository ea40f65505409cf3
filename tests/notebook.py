"""A notebook without a kernel: what the running cell shows, and every drawing of it."""

import sys
from types import SimpleNamespace


class FakeNotebook:
    """The part of IPython that a notebook uses.

    Attributes:
        outputs: the current content of each output of the cell.
        drawn: every content that was shown, in order.
    """

    def __init__(self):
        self.outputs, self.drawn = [], []
        self.display = SimpleNamespace(display=self._display)

    @classmethod
    def install(cls, monkeypatch):
        notebook = cls()
        monkeypatch.setitem(sys.modules, "IPython", notebook)
        return notebook

    def text(self):
        """The lines of the only output, as a frontend without HTML shows them."""
        (content,) = self.outputs
        return content["text/plain"].split("\n")

    def get_ipython(self):
        return SimpleNamespace(kernel=object())

    def _display(self, content, *, raw, display_id):
        assert raw
        assert display_id is True
        self.drawn.append(content)
        self.outputs.append(content)
        place = len(self.outputs) - 1
        return SimpleNamespace(update=lambda content, *, raw: self._update(place, content))

    def _update(self, place, content):
        self.drawn.append(content)
        self.outputs[place] = content
