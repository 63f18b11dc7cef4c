"""One page with plots, complete in itself: it asks for nothing over the network, and has the browser forbid it."""

import base64
import gzip
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.io
import plotly.offline

from .errors import NotUsable
from .figures import Figure
from .tables import Table

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2rem 0 0.5rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, .text th:last-child, .text td:last-child { text-align: left; }
.text td:last-child { overflow-wrap: anywhere; }
tr.marked { font-weight: 600; background: #fff6d6; }
.remark { background: #fff6d6; border-left: 4px solid #e0a800; padding: 0.4rem 0.8rem; }
.plot { height: 380px; }
"""

LOADER = """
const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), c => c.charCodeAt(0));
const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
new Response(unpacked).text().then(source => {
  const script = document.createElement("script");
  script.textContent = source;
  document.head.append(script);
  for (const plot of document.querySelectorAll("template.figure")) {
    const { data, layout } = JSON.parse(plot.content.textContent);
    Plotly.newPlot(plot.nextElementSibling, data, layout, { responsive: true, displaylogo: false });
  }
}).catch(error => { document.getElementById("trouble").textContent = "The plots cannot be drawn: " + error; });
"""
"""The library is a third of the size when it is compressed, which each browser of 2023 or later can undo."""


def write(path: Path, title: str, remarks: Iterable[str], tables: Iterable[Table], figures: Sequence[Figure]) -> None:
    """Writes a page.

    Raises:
        NotUsable: it cannot.
    """
    try:
        path.write_text(page(title, remarks, tables, figures), encoding="utf-8")
    except OSError as error:
        raise NotUsable(f"cannot write {path}: {error.strerror}") from None


def page(title: str, remarks: Iterable[str], tables: Iterable[Table], figures: Sequence[Figure]) -> str:
    """The page. Whatever comes from a server is escaped."""
    library = base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="remark">{escape(remark)}</p>' for remark in remarks),
        *(_table(table) for table in tables),
        *(_figure(figure) for figure in figures),
        '<p id="trouble"></p>',
        f'<script type="text/plain" id="plotly">{library}</script><script>{LOADER}</script>',
        "</body></html>",
    ]
    return "\n".join(parts)


def _table(table: Table) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(_row(row, number in table.marked) for number, row in enumerate(table.rows))
    kind = "table text" if table.last_is_text else "table"
    return f'<h2>{escape(table.title)}</h2><div class="{kind}"><table><tr>{header}</tr>{rows}</table></div>'


def _row(cells: Sequence[str], is_marked: bool) -> str:
    begin = '<tr class="marked">' if is_marked else "<tr>"
    return f"{begin}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _figure(figure: Figure) -> str:
    drawn: dict[str, Any] = {"data": figure.data, "layout": figure.layout}
    content = escape(plotly.io.json.to_json_plotly(drawn))
    return f'<h2>{escape(figure.title)}</h2><template class="figure">{content}</template><div class="plot"></div>'
