"""The site as `make docs` builds it: no warning, no dead link, no command that isn't one."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

import probekit as pk
from probekit.__main__ import _parser
from probekit.pipeline.parameters import read_parameters
from probekit.run.manifest import NOTEBOOKS

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
WRITTEN = sorted(
    path
    for path in [REPOSITORY / "README.md", *DOCS.rglob("*.md")]
    if not {"_build", "reference"} & set(path.relative_to(REPOSITORY).parts)
)
WIDTHS = 390, 1024, 1440


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site."""
    built = tmp_path_factory.mktemp("site") / "html"
    options = ["-q", "-W", "--keep-going", "-b", "html", "-j", "12"]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return built


@pytest.fixture(scope="module")
def pages(site):
    """{path: parsed page} of the site's pages."""
    found = {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in site.rglob("*.html")}
    assert len(found) > 20
    return found


def test_links_and_pictures_lead_to_what_is_there(site, pages):
    dead = []
    for path, page in pages.items():
        places = [tag["href"] for tag in page.find_all(["a", "link"], href=True)]
        places += [tag["src"] for tag in page.find_all(["img", "script"], src=True)]
        for place in places:
            parts = urlsplit(place)
            if parts.scheme:
                assert parts.scheme in {"https", "data"}, place
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                dead.append(f"{path.relative_to(site)}: {place}")
            elif parts.fragment and target in pages:
                ids = {tag["id"] for tag in pages[target].find_all(id=True)}
                if unquote(parts.fragment) not in ids:
                    dead.append(f"{path.relative_to(site)}: {place}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(pages):
    for page in pages.values():
        loaded = [*page.find_all("script", src=True), *page.find_all("img", src=True)]
        sheets = page.find_all("link", rel="stylesheet")
        places = [tag["src"] for tag in loaded] + [sheet["href"] for sheet in sheets]
        assert not [place for place in places if urlsplit(place).scheme not in {"", "data"}]


def test_every_picture_says_what_it_shows(site, pages):
    silent = [
        f"{path.relative_to(site)}: {image['src'][:60]}"
        for path, page in pages.items()
        for image in page.find_all("img")
        # In a link that says in words where it leads, a picture would only say it twice.
        if len(image.get("alt", "")) < 20 and not (image.parent.name == "a" and image.parent.text)
    ]
    assert not silent


def test_each_number_in_the_gallery_is_in_its_picture(site, pages):
    sections = pages[site / "gallery.html"].find_all("section")[1:]
    assert len(sections) == 12
    for section in sections:
        pictures = section.find_all("img")
        assert len(pictures) == 1
        shown = set(re.findall(r"\d+(?:\.\d+)?", pictures[0]["alt"]))
        said = set(re.findall(r"\d+(?:\.\d+)?", section.p.text))
        assert said <= shown, (section.h2.text, said - shown)
        assert len(section.pre.text.splitlines()) <= 10, section.h2.text
    assert {f"#{section['id']}" for section in sections} == {
        link["href"] for link in pages[site / "gallery.html"].select(".thumbnails a")
    }


def test_every_public_name_has_its_page(pages):
    titles = {page.h1.get_text().rstrip("¶") for page in pages.values() if page.h1}
    assert set(pk.__all__) <= titles


def commands():
    """Each probekit command that a page shows, with the page."""
    for path in WRITTEN:
        text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
        for line in text.splitlines():
            found = re.match(r"(?:    |\$ )(?:\S+/bin/)?(probekit .*)", line)
            if found:
                yield pytest.param(found[1], id=f"{path.stem}: {found[1]}")


@pytest.mark.parametrize("command", list(commands()))
def test_commands_parse(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command, comments=True)[1:]
    options, _ = _parser().parse_known_args(words)
    if options.command == "run":
        # It refuses names and values that no notebook takes.
        read_parameters(options.parameter, options.file if options.file != "params.yaml" else None)
        assert set(options.notebook) <= set(NOTEBOOKS)


def test_the_readme_says_first_what_it_is_and_shows_the_figure_and_two_commands():
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    first = "\n".join(lines[:10])
    assert "data/example/figures/heatmap.png" in first
    assert "make figure" in first
    assert "make test" in first
    assert len(lines) < 120
    for path in re.findall(r"\]\((?!https:)([^)#]+)", "\n".join(lines)):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.browser
def test_no_page_needs_sideways_scrolling(site, pages, page, traffic):
    wide = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for path in pages:
            if path.parent.name == "reference" and width != min(WIDTHS):
                continue
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append((path.relative_to(site), width))
    assert not wide
    assert traffic.refused == traffic.errors == []


@pytest.mark.browser
def test_search_finds_a_function(site, page):
    page.goto((site / "search.html").as_uri() + "?q=probe_grid")
    page.locator("ul.search a", has_text="probe_grid").first.wait_for()


def blocks(path, language):
    """Code blocks of a page that are shown and not run."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_code_that_is_not_run_is_of_names_that_there_are():
    shown = [block for path in WRITTEN for block in blocks(path, "python")]
    assert len(shown) > 4
    for block in shown:
        compile(block, "page", "exec")
        assert set(re.findall(r"\bpk\.(\w+)", block)) <= set(pk.__all__), block


def test_what_is_shown_of_a_session_is_a_tested_example():
    """Of a docstring, which `test_doctest.py` runs."""
    (session,) = [block for path in WRITTEN for block in blocks(path, "pycon")]
    example = inspect.getdoc(pk.check_model).split("Examples\n--------\n")[1]
    assert session.strip() == example.strip()
