"""The page at `/`: where to go from here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>imaging-ingestion</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}}
code{{background:#eee;padding:.1em .3em}}</style></head><body>
<h1>imaging-ingestion</h1>
<p>This server takes DICOM in over DICOMweb and passes it on. Its spaces:</p>
<ul>{spaces}</ul>
<ul>
<li><a href="/api/docs">REST API</a>: <a href="/api/studies">studies</a>,
<a href="/api/changes">changes</a>, <a href="/api/deliveries">deliveries</a></li>
<li><a href="/metrics">metrics</a>, <a href="/healthz/ready">health</a></li>
</ul></body></html>
"""


def landing_page(spaces: Sequence[str]) -> str:
    """The page as HTML."""
    items = "".join(
        f'<li>{escape(name)}: <a href="/spaces/{escape(name)}/dicom-web/studies">'
        f"<code>/spaces/{escape(name)}/dicom-web</code></a></li>"
        for name in spaces
    )
    return _PAGE.format(spaces=items)
