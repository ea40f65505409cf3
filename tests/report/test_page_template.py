import re

from nnx_alexnet.report.page_template import PAGE, page


def test_the_page_forbids_to_load_anything():
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', PAGE.template)[1]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_navigation_has_a_link_to_each_section():
    html = page("a<b", "<h1>x</h1>", [("My data", '<section id="my-data">'), ("Empty", "")])
    assert '<nav><a href="#my-data">My data</a></nav>' in html
    assert "<title>a&lt;b</title>" in html
    assert "<header>\n<h1>x</h1>\n</header>" in html
