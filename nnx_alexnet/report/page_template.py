"""The HTML template of a report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from nnx_alexnet.report.html_parts import anchor
from nnx_alexnet.report.page_style import STYLE

# The policy prevents the browser from loading anything from outside the page.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
$header
</header>
<nav>$links</nav>
$sections
</main>
</body>
</html>
""")


def page(title: str, header: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns a whole page.

    Args:
        title: of the browser's window, as text.
        header: the content of the header, as HTML.
        sections: title and HTML of each section; those without HTML are left out.
    """
    shown = [(name, html) for name, html in sections if html]
    links = "".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name, _ in shown)
    return PAGE.substitute(
        title=escape(title),
        style=STYLE,
        header=header,
        links=links,
        sections="\n".join(html for _, html in shown),
    )
