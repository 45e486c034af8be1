"""Pictures inside a page: WebP as data addresses, so that one file is whole."""

import base64
import io
from typing import Any

from PIL import Image


def embedded(image: Image.Image, **options: Any) -> str:
    """A picture as a data address; `options` are those of WebP: lossless, quality."""
    packed = io.BytesIO()
    image.save(packed, "webp", **options)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
