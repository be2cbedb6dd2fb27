"""Figures become files, PNG and SVG, and SVG text that takes the colours and the font of the page it stands in."""

import html
import io
import re
from pathlib import Path

from splitcom_dist.analysis.palette import RC, VARIABLES
from splitcom_dist.analysis.report import Figure
from splitcom_dist.errors import UserError

IDENTITY = re.compile(r'(\bid="|url\(#|href="#)(?!tip:)')
TIP = re.compile(r'<g id="tip:([^"]*)">')
COLOUR = re.compile("|".join(VARIABLES), re.IGNORECASE)


def draw(figure: Figure, folder: Path) -> str:
    """Write figures/<name>.png and .svg into `folder`; returns the SVG for the page. Raises UserError without
    matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UserError('splitcom analyze needs matplotlib: pip install "splitcom-dist[analysis]"') from None
    matplotlib.use("agg")
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(RC | {"svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        canvas.savefig(folder / f"{figure.name}.png")
        canvas.set_layout_engine("none")  # everything has its place; finding it takes as long as drawing
        vectors = io.StringIO()
        canvas.savefig(vectors, format="svg", metadata={"Date": None, "Title": figure.title})
    text = vectors.getvalue()
    (folder / f"{figure.name}.svg").write_text(_with_tips(text), encoding="utf-8")
    return inline(text, figure)


def inline(svg: str, figure: Figure) -> str:
    """The element alone, as wide as its place allows, with identities that no other figure of the page has."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = IDENTITY.sub(lambda found: f"{found[1]}{figure.name}-", body)
    body = COLOUR.sub(lambda found: f"var({VARIABLES[found[0].lower()]})", body)
    body = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'height="[^"]*" ', "", body, count=1), count=1)
    label = html.escape(f"{figure.title}. {figure.caption}", quote=True)
    style = f"max-width:{figure.size[0] * 104:.0f}px"
    return _with_tips(body.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{style}" ', 1))


def _with_tips(svg: str) -> str:
    return TIP.sub(lambda found: f'<g class="tip"><title>{found[1]}</title>', svg)
