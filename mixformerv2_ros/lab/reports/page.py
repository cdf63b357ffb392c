"""Self-contained HTML pages: styles, scripts and images inside, nothing from a network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.lab.reports.charts import PALETTE, THEME

Image = npt.NDArray[np.uint8]


def number(value: float, form: str = ".3f") -> str:
    """A number as text; a dash where there is none."""
    return format(value, form) if math.isfinite(value) else "–"


_LOADER = PackageLoader("mixformerv2_ros.lab.reports")
_TEMPLATES = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["number"] = number
_TEMPLATES.tests["finite"] = math.isfinite


def render_page(template: str, charts: Mapping[str, figure], **context: Any) -> str:
    """A whole page from one of the templates beside this module.

    Only the scripts that this function puts in can run, and the browser refuses whatever would
    reach out of the page, even if a text came through unescaped.

    Args:
        template: Name of the template, which extends `base.html.j2`.
        charts: Figures by the names under which the template places them.
        context: What the template shows; texts are escaped by it.
    """
    # Bokeh's core alone: no widgets, tables, WebGL or mathematical typesetting.
    library = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    script, places = components(dict(charts), wrap_script=False, theme=THEME)
    tables, _, _ = _LOADER.get_source(_TEMPLATES, "page.js")
    scripts = ["\n".join(library), script, tables]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'"
        for each in scripts
    )
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {hashes}; base-uri 'none'; form-action 'none'"
    )
    return _TEMPLATES.get_template(template).render(
        policy=policy,
        scripts=[Markup(each) for each in scripts],
        charts={name: Markup(place) for name, place in places.items()},
        palette=PALETTE,
        **context,
    )


def jpeg_uri(image: Image) -> str:
    """A (H, W, 3) BGR image as a `data:` address.

    Raises:
        ImageError: it cannot be encoded.
    """
    return _data_uri(image, ".jpg", "image/jpeg", [cv2.IMWRITE_JPEG_QUALITY, 82])


def png_uri(image: Image) -> str:
    """A (H, W, 4) BGRA image as a `data:` address.

    Raises:
        ImageError: it cannot be encoded.
    """
    return _data_uri(image, ".png", "image/png", [])


def _data_uri(image: Image, suffix: str, kind: str, options: list[int]) -> str:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ImageError(f"expected an image that can be written as {suffix}, got {image.shape}")
    return f"data:{kind};base64," + base64.b64encode(data.tobytes()).decode("ascii")
