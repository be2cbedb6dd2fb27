"""The documentation site: it builds without a warning, its links lead somewhere, its references miss nothing."""

import os
import subprocess
import sys
from dataclasses import is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import console
import pytest
import schema_keys
from plain_docstrings import escaped
from repository_links import DOCS, rewritten, titled

from splitcom_dist.config.schema import Config, LinkCodecConfig, all_keys, lookup
from splitcom_dist.links import LINKS

ROOT = DOCS.parent


def test_the_reference_has_every_key_of_the_schema_with_its_default() -> None:
    pages = {key.name: key.default for group in schema_keys.groups() for key in group.keys}
    leaves = [key for key in all_keys(Config()) if not is_dataclass(lookup(Config(), key))]
    shared = {f"codec.{link}.{key}": f"codec.<link>.{key}" for link in LINKS for key in vars(LinkCodecConfig())}
    assert set(pages) == {shared.get(key, key) for key in leaves}
    assert (pages["train.lr"], pages["lora.cut_rank"], pages["train.warmup_steps"]) == ("0.001", "null", "0")


def test_the_reference_says_what_the_schema_says_beside_above_and_below_a_key() -> None:
    keys = {key.name: key for group in schema_keys.groups() for key in group.keys}
    assert keys["model.cut_layer"].meaning == "blocks 0..cut_layer-1 are the client's head"
    assert keys["fed.straggler"].meaning.startswith("wait for every client in every step; or deadline: one that has")
    assert keys["fed.straggler"].meaning.endswith("and the others go on without it")
    assert keys["fed.deadline_seconds"].meaning == ""
    assert keys["lora.cut_rank"].meaning.endswith("scaled by alpha / cut_rank")
    assert keys["lora.cut_rank"].type == "integer or null"
    assert keys["train.epochs"].range == "at least 1"
    assert "down_gradient: always, never, cosine, sampled" in keys["codec.<link>.gate"].range
    summaries = {group.name: group.summary for group in schema_keys.groups()}
    assert summaries["control.gradient"] == "and of gradient links"
    assert summaries["fed.speed"].startswith("Slow devices, emulated")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Error at most 2^-11 |x| + a_i * b_i.", r"Error at most 2^-11 \|x\| + a\_i \* b\_i."),
        ("of `width` elements, `a*b`", "of ``width`` elements, ``a*b``"),
        ("one ` alone", r"one \` alone"),
    ],
)
def test_docstrings_are_no_markup_but_for_backticks(line: str, shown: str) -> None:
    assert escaped(line) == shown


def test_links_of_the_repository_become_links_of_the_site() -> None:
    page = DOCS / "video.md"
    text = (
        "[a](../splitcom_dist/codec/prefix.py) [b](../benchmarks/results/pareto.md) [c](../tests) [d](cluster.md#srun)"
    )
    assert rewritten(text, DOCS, page) == (
        "{py:mod}`a <splitcom_dist.codec.prefix>` [b](/results/pareto.md) `c` [d](/cluster.md#srun)"
    )
    copy = rewritten("[x](launch/wan.sh) [y](https://example.org/z.md) [z](docs/none.md)", ROOT, DOCS / "overview.md")
    assert copy == "[x](../launch/wan.sh) [y](https://example.org/z.md) [z](docs/none.md)"
    assert titled("text\n\n### a\n\n#### b\n", "wide_area") == "# Wide area\n\ntext\n\n## a\n\n### b\n"
    assert titled("# has one\n", "x") == "# has one\n"


def test_outputs_differ_where_words_or_numbers_do_and_not_where_times_do() -> None:
    shown = "perplexity 100.0 · 31.1 s\nrank 0   6.95 MB   493 MB\n\n"
    assert console.difference(shown, "perplexity 103.0 ·  2 s\nrank 0 6.95 MB   55 MB") == ""
    assert console.difference("took 40.9 s, 0:23 ago", "took 1 h 3 min 4 s, 1:04:59 ago") == ""
    assert "100 on the page is 150 now" in console.difference(shown, shown.replace("100.0", "150.0"))
    assert "but printed was" in console.difference(shown, shown.replace("perplexity", "loss"))
    assert console.difference(shown, "perplexity 100.0 · 1 s") == "the page shows 2 lines, printed were 1"
    assert "6.95 on the page" in console.difference(shown, shown.replace("6.95", "16.95"))


def test_console_blocks_are_read_and_written() -> None:
    page = "a\n```console\n$ cat > x <<'END'\n> one\n>\n> END\n$ cat x\none\n```\nb\n"
    first, second = console.commands(page)
    assert (first.text, first.output) == ("cat > x <<'END'\none\n\nEND", "")
    assert (second.text, second.output) == ("cat x", "one\n")
    assert console.rewrite(page, iter(["", "two"])) == page.replace("$ cat x\none", "$ cat x\ntwo")


class Links(HTMLParser):
    """The targets of a page's links, and its own anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.add(value)
            if name == "id" and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Every link within the site that leads to no file, or to no place in it."""
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    broken = []
    for page, links in pages.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if not path.exists() or (anchor and path in pages and anchor not in pages[path].anchors):
                broken.append(f"{page.relative_to(site.resolve())}: {target}")
    return broken


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_site_builds_without_a_warning_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the extra docs is not installed")
    site = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    built = subprocess.run(
        [*command, "--fresh-env", str(DOCS), str(site)], env=environment, capture_output=True, text=True, timeout=1700
    )
    assert built.returncode == 0, built.stderr
    for page in ("index", "tutorial", "methods", "extending", "configuration", "command_line", "api/codec"):
        assert (site / f"{page}.html").is_file(), page
    assert 'id="key-codec-link-theta"' in (site / "configuration.html").read_text()
    assert "splitcom evaluate" in (site / "command_line.html").read_text()
    assert broken_links(site) == []
