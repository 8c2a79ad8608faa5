"""Names out of directory indexes: pages as nginx, Apache (three shapes), Python, lighttpd and Caddy write them, and odd ones."""

from __future__ import annotations

import html
import time
from html.parser import HTMLParser
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forebay.cache.stores.http.links import names_of
from forebay.cache.stores.names import usable

HOME = "http://host:8080"

NGINX = b"""<html>
<head><title>Index of /data/set/</title></head>
<body>
<h1>Index of /data/set/</h1><hr><pre><a href="../">../</a>
<a href="sub/">sub/</a>                                               25-Nov-2026 15:32                   -
<a href="a%20b%3Fc%23d.txt">a b?c#d.txt</a>                                        25-Nov-2026 15:32                   3
<a href="a-very-long-name-that-is-shown-cut-off-in-the-text-of-the-link.bin">a-very-long-name-that-is-shown-cut-off-in..&gt;</a> 1
<a href="%FF%FE">??</a>  1
</pre><hr></body>
</html>
"""

APACHE_PRE = b"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html>
 <head>
  <title>Index of /data/set</title>
 </head>
 <body>
<h1>Index of /data/set</h1>
<pre><img src="/icons/blank.gif" alt="Icon "> <a href="?C=N;O=D">Name</a>                    <a href="?C=M;O=A">Last modified</a>
<hr><img src="/icons/back.gif" alt="[PARENTDIR]"> <a href="/data/">Parent Directory</a>                             -
<img src="/icons/folder.gif" alt="[DIR]"> <a href="sub/">sub/</a>                    2026-11-25 15:32    -
<img src="/icons/text.gif" alt="[TXT]"> <a href="a%20b%3fc%23d.txt">a b?c#d.txt</a>             2026-11-25 15:32    3
<img src="/icons/compressed.gif" alt="[   ]"> <a href="x&amp;y.tar.gz">x&amp;y.tar.gz</a>   2026-11-25 15:32    3
<hr></pre>
<address>Apache/2.4.66 (Debian) Server at host Port 8080</address>
</body></html>
"""

APACHE_TABLE = b"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">
<html><head><title>Index of /data/set</title></head><body>
<h1>Index of /data/set</h1>
  <table>
   <tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td valign="top">&nbsp;</td><td><a href="/data/">Parent Directory</a></td><td>&nbsp;</td></tr>
<tr><td valign="top"><img src="/icons/folder.gif" alt="[DIR]"></td><td><a href="sub/">sub/</a></td><td align="right">-</td></tr>
<tr><td valign="top"><img src="/icons/text.gif" alt="[TXT]"></td><td><a href="a.txt">a.txt</a></td></tr>
</table>
</body></html>
"""

APACHE_LIST = b"""<html><head><title>Index of /data/set</title></head><body>
<h1>Index of /data/set</h1>
<ul><li><a href="/data/"> Parent Directory</a></li>
<li><a href="sub/"> sub/</a></li>
<li><a href="a.txt"> a.txt</a></li>
</ul>
</body></html>
"""

PYTHON = b"""<!DOCTYPE HTML>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Directory listing for /data/set/</title>
</head>
<body>
<h1>Directory listing for /data/set/</h1>
<hr>
<ul>
<li><a href="link">link@</a></li>
<li><a href="sub/">sub/</a></li>
<li><a href="sp%20ace%2Bplus%25.txt">sp ace+plus%.txt</a></li>
</ul>
<hr>
</body>
</html>
"""

CADDY = b"""<!DOCTYPE html><html><head><title>set/</title><script>document.write('<a href="evil">')</script></head>
<body><a href="../">up</a><a href="./sub/"><svg/></a><A class=x HREF='./a.txt'>a.txt</A></body></html>"""


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (NGINX, [b"sub/", b"a b?c#d.txt", b"a-very-long-name-that-is-shown-cut-off-in-the-text-of-the-link.bin", b"\xff\xfe"]),
        (APACHE_PRE, [b"sub/", b"a b?c#d.txt", b"x&y.tar.gz"]),
        (APACHE_TABLE, [b"sub/", b"a.txt"]),
        (APACHE_LIST, [b"sub/", b"a.txt"]),
        (PYTHON, [b"link", b"sub/", b"sp ace+plus%.txt"]),
        (CADDY, [b"sub/", b"a.txt"]),
    ],
)
def test_servers(page: bytes, names: list[bytes]) -> None:
    links = names_of(page, HOME, "/data/set/", 100)
    assert (links.names, links.skipped, links.index, links.opened, links.closed) == (names, 0, True, True, True)


@pytest.mark.parametrize("page", [NGINX, APACHE_PRE, APACHE_TABLE, APACHE_LIST, PYTHON])
def test_an_empty_directory_still_looks_like_an_index(page: bytes) -> None:
    head = page[: page.lower().index(b"</h1>")] + b"</h1></body></html>"
    links = names_of(head, HOME, "/data/set/", 100)
    assert (links.names, links.index, links.closed) == ([], True, True)


@pytest.mark.parametrize("page", [NGINX, APACHE_PRE, APACHE_TABLE, APACHE_LIST, PYTHON])
def test_every_cut_of_a_page_shows(page: bytes) -> None:
    for end in range(len(page.rstrip()) - 1):
        links = names_of(page[:end], HOME, "/data/set/", 100)
        assert not links.closed


@pytest.mark.parametrize(
    "page", [b"<html><body>Please log in <a href='/login'>here</a></body></html>", b"hello", b"", b'{"a": 1}']
)
def test_other_pages_are_no_index(page: bytes) -> None:
    assert not names_of(page, HOME, "/data/set/", 100).index


@pytest.mark.parametrize(
    ("href", "names", "skipped"),
    [
        ("x", [b"x"], 0),
        ("./x", [b"x"], 0),
        ("x/", [b"x/"], 0),
        ("/data/set/x", [b"x"], 0),
        ("/data/s%65t/x", [b"x"], 0),
        ("http://host:8080/data/set/x", [b"x"], 0),
        ("x#frag", [b"x"], 0),
        ("x%2Fy", [], 1),
        ("x/y", [], 1),
        ("/data/other", [], 0),
        ("/data/set", [], 0),
        ("/data/setx/y", [], 0),
        ("http://elsewhere/data/set/x", [], 0),
        ("http://host:80800/data/set/x", [], 0),
        ("//elsewhere/data/set/x", [], 0),
        ("mailto:x@y", [], 0),
        ("javascript:void(0)", [], 0),
        ("?C=N;O=D", [], 0),
        ("x?y", [], 0),
        ("#top", [], 0),
        ("", [], 0),
        ("../", [], 0),
        ("../x", [], 1),
        ("%2e%2e/", [], 1),
        ("%2e%2e", [], 1),
        (".", [], 1),
        ("./", [], 0),
        ("%00", [], 1),
        ("a%00b", [], 1),
        ("x" * 256, [], 1),
        ("%zz", [b"%zz"], 0),
        ("a&amp;b", [b"a&b"], 0),
        ("&#233;", ["é".encode()], 0),
        ("é", ["é".encode()], 0),
        (" x ", [b"x"], 0),
    ],
)
def test_links(href: str, names: list[bytes], skipped: int) -> None:
    links = names_of(f'<a href="{href}">t</a>'.encode(), HOME, "/data/set/", 100)
    assert (links.names, links.skipped) == (names, skipped)


@pytest.mark.parametrize(
    "page",
    [
        b'<!-- <a href="evil">x</a> --><a href="x">x</a>',
        b'<script>var a = "<a href=evil>";</script><a href="x">x</a>',
        b'<abbr href="evil">x</abbr><a title="<a href=evil>" href=x>x</a>',
        b"<a\n\thref = x\n>x</a><a name=evil>y</a><area href=evil>",
        b'<a data-href="evil" href="x">',
        b'<a href="x"><a href="x">',
        b'<a href="x" title="<a href=\'evil\'>">',
        b'<a href="x" title="open><a name="x">',
    ],
)
def test_odd_markup(page: bytes) -> None:
    assert names_of(page, HOME, "/", 100).names == [b"x"]


def test_a_file_hidden_by_a_directory_is_counted() -> None:
    links = names_of(b'<a href="x">x</a><a href="x/">x/</a>', HOME, "/", 100)
    assert (links.names, links.skipped) == ([b"x/"], 1)


def test_too_many_links() -> None:
    page = b"".join(b'<a href="f%d">' % n for n in range(11))
    assert len(names_of(page, HOME, "/", 11).names) == 11
    with pytest.raises(ValueError, match="more than 10"):
        names_of(page, HOME, "/", 10)


class Model(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value is not None][:1]


names = st.binary(min_size=1, max_size=12).filter(usable)


@given(
    st.lists(st.tuples(names, st.booleans()), max_size=12, unique_by=lambda item: item[0]),
    st.sampled_from(["nginx", "python", "apache"]),
)
def test_every_name_survives_the_page(items: list[tuple[bytes, bool]], style: str) -> None:
    lines = []
    for name, is_dir in items:
        href = quote(name) + ("/" if is_dir else "")
        text = html.escape(name.decode("latin-1"), quote=False)
        lines.append(f'<a href="{href}">{text}</a>' if style != "python" else f"<li><a href='{href}'>{text}</a></li>")
    page = ("<html><h1>Index of /</h1>" + "\n".join(lines) + "</html>").encode("utf-8", "surrogateescape")
    links = names_of(page, HOME, "/data/", 100)
    assert links.names == [name + b"/" * is_dir for name, is_dir in items]
    model = Model()
    model.feed(page.decode("utf-8", "surrogateescape"))
    assert [unquote_to_bytes(href) for href in model.hrefs] == links.names


@given(st.binary(max_size=300))
@example(b"/\x80")
def test_any_bytes_are_a_page(page: bytes) -> None:
    for candidate in (page, b"<a " + page, b'<a href="' + page, b"<!--" + page, b'<a href="' + page + b'">'):
        links = names_of(candidate, HOME, "/data/", 1000)
        assert all(usable(name.removesuffix(b"/")) for name in links.names)


@pytest.mark.parametrize(
    "piece",
    [
        b"<a ",
        b'<a href="',
        b"<!--",
        b"<script>",
        b'<a x="y" ',
        b"<a href=x ",
        b"<a '\"",
        b"<title",
        b"<a '\">",
        b"<a x='>",
        b"<a x ='\"",
        b"<",
    ],
)
@pytest.mark.parametrize("end", [b"", b">"])
def test_no_page_takes_forever(piece: bytes, end: bytes) -> None:
    started = time.thread_time()
    try:
        names_of(piece * (2_000_000 // len(piece)) + end, HOME, "/", 1_000_000)
    except ValueError as e:
        assert "broken" in str(e)  # noqa: PT017
    assert time.thread_time() - started < 8
