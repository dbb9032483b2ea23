"""The page at `/`: where to go from here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>imaging-ingestion</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}}
code{{background:#eee;padding:.1em .3em}}</style></head><body>
<h1>imaging-ingestion</h1>
<p>This server takes DICOM in and passes it on. Its spaces, over DICOMweb:</p>
<ul>{spaces}</ul>
{entities}<ul>
<li><a href="/api/docs">REST API</a>: <a href="/api/studies">studies</a>,
<a href="/api/changes">changes</a>, <a href="/api/deliveries">deliveries</a></li>
<li><a href="/metrics">metrics</a>, <a href="/healthz/ready">health</a></li>
</ul></body></html>
"""


def landing_page(spaces: Sequence[str], entities: Sequence[str] = ()) -> str:
    """The page as HTML; `entities` are those that answer DIMSE, as `TITLE@host:port`."""
    items = "".join(
        f'<li>{escape(name)}: <a href="/spaces/{escape(name)}/dicom-web/studies">'
        f"<code>/spaces/{escape(name)}/dicom-web</code></a></li>"
        for name in spaces
    )
    listed = "".join(f"<li><code>{escape(entity)}</code></li>" for entity in entities)
    called = f"<p>Over DIMSE:</p>\n<ul>{listed}</ul>\n" if entities else ""
    return _PAGE.format(spaces=items, entities=called)
