"""What the site takes from outside of docs/: README.md is its home, CONTRIBUTING.md and CHANGELOG.md are pages."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, their links turned to where they lie on the site."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=placed((ROOT / source).read_text(encoding="utf-8"))))
    return files


def placed(text: str) -> str:
    """Return ``text`` of the checkout's top folder with its links as seen from docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text
