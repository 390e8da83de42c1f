"""The files of the page at `/`, and the headers that they are sent with.

The page is HTML, CSS and JavaScript as they stand here, without a build step and without anything
from elsewhere, as hospital networks want it. It has no way of its own to the models: it asks the
API, with the key that is typed into it, so that keys, limits, counts and the audit log hold for it
as for any client, and whoever opens it without a key can do nothing. The key stays in the page's
memory. The browser is told to run and load nothing but these files.

Gradio would be less code, but it brings a second way in: uploads, a queue and sessions of its own,
which take no bearer key, keep patients' images in files, and belong to one replica, while Ray Serve
sends each request to any.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

FILES: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/playground-pictures.js": ("playground-pictures.js", "text/javascript; charset=utf-8"),
    "/playground-words.js": ("playground-words.js", "text/javascript; charset=utf-8"),
}
"""Name and type of each file, by the path at which it is answered."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


@cache
def read_file(name: str) -> bytes:
    """A file of the page."""
    return files("sonoray_serve.playground").joinpath(name).read_bytes()
