"""What all pages are made of: templates that escape every text, and pictures that lie in the page itself."""

import base64
import io

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image


def templates() -> Environment:
    """The templates of this package. A name that a page is not given is an error."""
    return Environment(
        loader=PackageLoader("segtrain", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def webp(picture: Image.Image, quality: int, lossless: bool = False) -> str:
    """The picture as the data URL of a WebP; `quality`: up to 100, of a lossless one the effort."""
    small = io.BytesIO()
    picture.save(small, "WEBP", lossless=lossless, quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"
