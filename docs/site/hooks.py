"""MkDocs hooks: files outside docs/ become part of the site, at the place where links expect them.

The pages link to each other as files of the repository, so that they also work where the repository
is read. The site holds README.md as its first page, and whatever else a page links to.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LOG.md",
    "SECURITY.md",
    "examples/README.md",
    "reports/questions.md",
]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def _outside(config: Any, name: str) -> File:
    """A file of the repository that is not in docs/."""
    return File.generated(config, name, abs_src_path=str(ROOT / name))


def on_files(files: Files, config: Any) -> Files:
    index = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=index))
    linked = set(PAGES)
    for name, text in _texts(files):
        linked |= {target for target in _targets(name, text) if (ROOT / target).is_file()}
    for name in sorted(linked):
        if name.startswith("docs/") or name == "README.md":
            continue
        files.append(_outside(config, name))
    return files


def _texts(files: Files) -> list[tuple[str, str]]:
    """(path in the repository, text) of every page."""
    found = [(name, (ROOT / name).read_text(encoding="utf-8")) for name in ["README.md", *PAGES]]
    for file in files.documentation_pages():
        path = ROOT / "docs" / file.src_uri
        if path.exists():
            found.append((f"docs/{file.src_uri}", path.read_text(encoding="utf-8")))
    return found


def _targets(page: str, text: str) -> list[str]:
    """Paths in the repository that a page links to."""
    folder = posixpath.dirname(page)
    paths = [link.split("#")[0] for link in LINK.findall(text)]
    return [posixpath.normpath(posixpath.join(folder, path)) for path in paths if path]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links between files of the repository become links between pages of the site."""
    name = page.file.src_uri
    inside = (ROOT / "docs" / name).exists()
    source = f"docs/{name}" if inside else name
    if name == "index.md":
        source = "README.md"

    def on_site(match: re.Match[str]) -> str:
        path, *anchor = match[1].split("#")
        if not path:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = _place(target)
        link = posixpath.relpath(target, posixpath.dirname(name) or ".")
        return "](" + "#".join([link, *anchor]) + ")"

    return LINK.sub(on_site, markdown)


def _place(target: str) -> str:
    """Where a file of the repository lies on the site. A folder is its README."""
    if (ROOT / target).is_dir() and (ROOT / target / "README.md").exists():
        target = posixpath.join(target, "README.md")
    if target in ("README.md", "docs/README.md"):
        return "index.md"
    return target.removeprefix("docs/")
