"""Pages that lie elsewhere in the repository, and links to what is no page.

Pages are read in the repository too, so they name files by their place there. On the site README.md and the
benchmarks' results are pages; a module of an API page is a link to it; any other file is copied beside the site; a
folder is but its name.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
ROOMS = sorted(page.stem for page in (DOCS / "api").glob("*.rst") if page.stem not in ("index", "modules"))
LINK = re.compile(r"(!?)\[([^\]\n]*(?:\n[^\]\n]+)?)\]\((?!/|\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def copies() -> dict[Path, Path]:
    """What is copied to become a page, by its place among the pages."""
    results = {DOCS / "results" / page.name: page for page in (ROOT / "benchmarks" / "results").glob("*.md")}
    weights = ROOT / "splitcom_dist" / "models" / "tiny" / "weights"
    return {DOCS / "overview.md": ROOT / "README.md", DOCS / "embedded_model.md": weights / "README.md", **results}


def rewritten(text: str, base: Path, page: Path) -> str:
    """`text` with its links, which are relative to the folder `base`, as they are on the page `page`."""

    def replace(match: re.Match[str]) -> str:
        image, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = (base / target).resolve()
        if not path.exists():  # Sphinx says so
            return match[0]
        pages = {source: copy for copy, source in copies().items()}
        shown = pages.get(path, path)
        if shown.suffix in (".md", ".rst") and shown.is_relative_to(DOCS):
            return f"{image}[{label}](/{shown.relative_to(DOCS)}{anchor})"
        module = path.relative_to(ROOT).with_suffix("").parts
        if module[0] == "splitcom_dist" and len(module) > 1 and module[1] in ROOMS:
            if path.suffix == ".py":
                return f"{{py:mod}}`{label.replace('`', '')} <{'.'.join(module)}>`"
            if path.is_dir():
                return f"[{label}](/api/{module[1]}.rst)"
        if path.is_dir():
            return label if "`" in label else f"`{label}`"
        return f"{image}[{label}]({os.path.relpath(path, page.parent)}{anchor})"

    return LINK.sub(replace, text)


def titled(text: str, name: str) -> str:
    """With a title in front where a page has none, and its headings below that."""
    levels = [len(match[1]) for match in re.finditer(r"^(#+) ", text, re.M)]
    if 1 in levels:
        return text
    deeper = 2 - min(levels, default=2)
    moved = re.sub(r"^#+(?= )", lambda match: "#" * (len(match[0]) + deeper), text, flags=re.M)
    return f"# {name.replace('_', ' ').capitalize()}\n\n{moved}"


def copy_pages(app: Sphinx) -> None:
    """Bring them up to date; those that have not changed keep their time, so that Sphinx reads them once."""
    for page, source in copies().items():
        text = titled(rewritten(source.read_text(), source.parent, page), page.stem)
        if not page.exists() or page.read_text() != text:
            page.parent.mkdir(exist_ok=True)
            page.write_text(text)


def rewrite_source(app: Sphinx, docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md":
        source[0] = rewritten(source[0], page.parent, page)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", rewrite_source)
    return {"parallel_read_safe": True}
