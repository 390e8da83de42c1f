"""The examination site in front of a question, as `train.site_cue` asks for it.

Training writes it there and the server looks for it, so its form stands here alone.
"""

import re

SITE_CUE = "检查部位：{site}。"

_PATTERN = re.compile(SITE_CUE.format(site=r"\s*[^。\s][^。]*"))


def with_site(question: str, site: str) -> str:
    """Put the site in front of a question."""
    return SITE_CUE.format(site=site) + question


def names_site(question: str) -> bool:
    """Whether a question begins with a site."""
    return _PATTERN.match(question) is not None
