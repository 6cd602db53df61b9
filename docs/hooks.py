"""Hooks of mkdocs: what GitHub and the site read differently, and the language of Chinese pages."""

import re
from typing import Any

CHINESE = r"[\u3000-\u9fff\uff00-\uffef]"


def on_page_content(html: str, **_: Any) -> str:
    """The page without a backslash in `\\|`, and without line ends between two Chinese characters.

    GitHub's tables want the one within code, and mkdocs shows it. Browsers show the other as a space.
    """
    return re.sub(f"(?<={CHINESE})\n(?={CHINESE})", "", html.replace("\\|", "|"))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The file, which says that it is Chinese: browsers choose the font by that, readers for the blind the voice."""
    is_chinese = page.file.src_uri.endswith(".zh.md")
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1) if is_chinese else output
