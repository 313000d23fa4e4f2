"""Charts as files and as still pictures: rendered here, with no network and no browser."""

import html
import json
import re
import struct
import sys
import zlib

import altair as alt
import vl_convert
from IPython.display import Image

from probekit import arguments
from probekit.run.files import replacing

FORMATS = ("json", "svg", "png", "pdf", "html")

# The policy holds even if a chart's text were to become code: the page may run its own inline
# script and reach nothing else. Vega's expressions are interpreted (ast), not compiled with eval.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<script>{bundle}</script>
</head>
<body>
<noscript>{description}</noscript>
<div id="chart"></div>
<script>
vegaEmbed("#chart", {spec}, {{
  renderer: "svg", ast: true,
  actions: {{export: true, source: false, compiled: false, editor: false}}
}});
</script>
</body>
</html>
"""


def save_chart(chart, path):
    """Save a chart as Vega-Lite JSON, SVG, PNG, PDF and a web page that opens offline.

    Nothing is fetched, and the same chart gives the same bytes. Each file appears whole or not
    at all; missing folders are made.

    Parameters
    ----------
    chart : altair chart
    path : path
        Without a suffix, all five files are written next to each other; with one of
        ``.json .svg .png .pdf .html``, that file only.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    TypeError
        If it is no Altair chart.
    ValueError
        If the suffix is another one, or the folder cannot be written to.

    Examples
    --------
    >>> import probekit as pk
    >>> chart = pk.heatmap(pk.Run("data/examples/cities").grid())
    >>> [path.name for path in pk.save_chart(chart, "heatmap")]
    ['heatmap.json', 'heatmap.svg', 'heatmap.png', 'heatmap.pdf', 'heatmap.html']
    """
    path = arguments.path("path", path)
    if path.suffix.lower()[1:] in FORMATS:
        targets = [path]
    elif path.suffix[1:].isalpha() or not path.name:
        # Not every suffix: "cities-1.7B" and "run.v2" are names, "heatmap.jpeg" is a wish.
        raise ValueError(
            f"A chart can't be saved as {path.name!r}. Use .{', .'.join(FORMATS)}, "
            "or no suffix for all of them."
        )
    else:
        targets = [path.with_name(f"{path.name}.{form}") for form in FORMATS]
    rendered = [(target, _render(chart, target.suffix.lower()[1:])) for target in targets]
    for target, content in rendered:
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    return targets


def static(chart):
    """Turn a chart into a picture with alternative text, for a notebook that runs no JavaScript.

    Parameters
    ----------
    chart : altair chart

    Returns
    -------
    IPython.display.Image
        A PNG at twice the resolution, shown at the chart's own size.

    Examples
    --------
    >>> import probekit as pk
    >>> pk.static(pk.heatmap(pk.Run("data/examples/cities").grid()))
    <IPython.core.display.Image object>
    """
    png = _compressed(_render(chart, "png", scale=2))
    width = int.from_bytes(png[16:20], "big")  # PNG: the header's width, in pixels
    return Image(data=png, format="png", width=width // 2, alt=_text(chart.description))


def _compressed(png):
    """The same picture in a third of the bytes: vl-convert is quick about it, and a notebook grows.

    A PNG is a signature and chunks: length, kind, content, CRC (https://www.w3.org/TR/png-3/).
    """
    chunks, start = [], 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        chunks.append((png[start + 4 : start + 8], png[start + 8 : end - 4]))
        start = end
    pixels = zlib.compress(zlib.decompress(b"".join(c for kind, c in chunks if kind == b"IDAT")), 9)
    before = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")]
    written = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in [*before, (b"IDAT", pixels), (b"IEND", b"")]
    ]
    return png[:8] + b"".join(written)


def _text(value):
    return value if isinstance(value, str) else ""


def _render(chart, form, scale=3):
    """Bytes of the chart in one of the FORMATS; an empty list of base URLs forbids the network."""
    if not isinstance(chart, alt.TopLevelMixin):
        raise TypeError(f"Expected an Altair chart, got {arguments.shown(chart)}.")
    # The user may have set up a transformer that writes data files or refuses 5,000 rows.
    with alt.data_transformers.enable("default", max_rows=None):
        spec = _visible(chart.to_dict())
    description = html.escape(_text(spec.get("description")))
    if form == "json":
        return (json.dumps(spec, indent=1, allow_nan=False) + "\n").encode()
    if form == "png":
        return vl_convert.vegalite_to_png(spec, scale=scale, allowed_base_urls=[])
    if form in ("svg", "pdf"):
        svg = _numbered_from_zero(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
        if form == "pdf":
            return _in_order(vl_convert.svg_to_pdf(svg))
        return svg.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1).encode()
    title = spec.get("title", "Chart")
    title = title["text"] if isinstance(title, dict) else title
    title = " ".join(title) if isinstance(title, list) else title
    # JSON inside <script>: with no "<" in it, no text of the chart can end the script.
    page = PAGE.format(
        title=html.escape(title),
        description=description,
        bundle=vl_convert.javascript_bundle(),
        spec=json.dumps(spec, allow_nan=False).replace("<", "\\u003c"),
    )
    return page.encode()


def _visible(spec):
    """A chart's specification with texts that a picture can hold.

    A control character is none of XML's, and vl-convert ends the whole process over it.
    """
    if isinstance(spec, dict):
        return {name: _visible(value) for name, value in spec.items()}
    if isinstance(spec, list):
        return [_visible(value) for value in spec]
    return arguments.visible(spec, sys.maxsize) if isinstance(spec, str) else spec


def _numbered_from_zero(svg):
    """Renumber gradients and clips, which Vega counts on from chart to chart in a process."""
    for i, name in enumerate(re.findall(r'id="((?:gradient_|clip)\d+)"', svg)):
        svg = svg.replace(f'id="{name}"', f'id="paint{i}"')
        svg = svg.replace(f"url(#{name})", f"url(#paint{i})")
    return svg


def _in_order(pdf):
    """Sort the entries of each resource dictionary, which vl-convert writes in the order of a hash.

    Every entry is a line of its own, so nothing in the file moves that another part points to.
    """
    return re.sub(
        rb"(?m)(?:^ +/[a-z]+\d+ \d+ 0 R\n)+",
        lambda entries: b"".join(sorted(entries[0].splitlines(keepends=True))),
        pdf,
    )
