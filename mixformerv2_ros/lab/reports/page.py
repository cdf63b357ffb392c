"""Self-contained HTML pages: style and script inside, pictures as data, nothing from a network."""

from __future__ import annotations

import base64
import math
from html import escape
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError

Image = npt.NDArray[np.uint8]

# The browser refuses whatever would reach out of the page, even if a name came through unescaped.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

_HERE = Path(__file__).resolve().parent


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page: `body` (HTML) under the common style and script, then those given.

    Tables of class `sortable`, charts and the button `#theme` come to life by the common script;
    everything is readable without it.
    """
    css = (_HERE / "page.css").read_text(encoding="utf-8") + style
    js = (_HERE / "page.js").read_text(encoding="utf-8") + script
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n{body}\n<script>\n{js}</script>\n</body>\n</html>\n"
    )


def jpeg_uri(image: Image, quality: int = 82) -> str:
    """A (H, W, 3) BGR image as a `data:` address.

    Raises:
        ImageError: it cannot be encoded.
    """
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"expected an image that can be written as JPEG, got {image.shape}")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def number_cell(value: float, form: str = ".3f", style: str = "") -> str:
    """A table cell with a number, in full precision for the page's sorting; NaN is a dash."""
    classes = f' class="{style}"' if style else ""
    if not math.isfinite(value):
        return f"<td{classes}>–</td>"
    return f'<td{classes} data-v="{value!r}">{value:{form}}</td>'
