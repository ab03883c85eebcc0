"""Brings files from outside docs/ into the site: the figures in assets/ and two pages of the repository's root."""

import pathlib
import re

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Files of the root and the pages that they become.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, *, config) -> Files:
    for path in sorted((ROOT / "assets").rglob("*.png")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for source, page in PAGES.items():
        if page != "index.md":
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    source = page.file.src_uri
    folder = (DOCS / source).parent if (DOCS / source).exists() or "/" in source else ROOT

    def rewrite(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        path = (folder / target).resolve()
        if re.match(r"[a-z]+:", target) or not path.is_relative_to(ROOT) or not path.exists():
            return match[0]
        inside = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
        inside = PAGES.get(inside, inside)
        if inside not in files.src_uris:
            # A source file, which the site does not have.
            return text
        return f"{image}[{text}]({'../' * source.count('/')}{inside}{anchor or ''})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewrite, part) for part in parts)
