"""A hook of mkdocs: GitHub's tables want `\\|` within code, of which mkdocs shows the backslash, too."""

from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """The page without those backslashes."""
    return html.replace("\\|", "|")
