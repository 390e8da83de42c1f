"""QIDO-RS: the instances that a query means, each once, whatever the server does with its pages.

Studies are asked for page by page; then the instances of each, all at once, and page by page what
the server kept back. A server may give fewer than asked for, so only an empty page is the last one,
and that only where the offset has led to something before: Orthanc 1.10 gives an empty second page
whenever there is a filter. A page of which everything is known comes from a server that ignores the
offset or repeats itself. In both cases everything is asked for at once, and paging goes on if that
was news. One instance's own attributes come by WADO-RS, without its pixels.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydicom.datadict import tag_for_keyword

from sonoray.errors import ConfigError, DataError
from sonoray.ingest.dicomweb.client import Answer, DicomWebClient, FetchFailedError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.multipart import CutOffError

T = TypeVar("T")

DEFAULT_QUERY = (("ModalitiesInStudy", "US"),)
"""What is looked for where the query does not say otherwise."""
_STUDY_UID, _SERIES_UID, _INSTANCE_UID = "0020000D", "0020000E", "00080018"
_SOP_CLASS, _MODALITY = "00080016", "00080060"
_UID = re.compile(r"(?!\.+$)[\w.-]{1,64}", re.ASCII)
"""Wider than PS3.5 section 9.1, as archives are; still one segment of a path."""
_ACCEPT = "application/dicom+json, application/json;q=0.9"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Instance:
    """One instance, as the server lists it."""

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class: str = ""
    """SOP Class UID; empty where the server does not tell."""
    modality: str = ""
    """Of its series; empty where the server does not tell."""


def read_query(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Join `KEY=VALUE` texts to the default query; an empty value takes its key out.

    Raises:
        ConfigError: a text is malformed, or its key no DICOM attribute. Servers ignore what they do
            not know, and would give everything.
    """
    fields = dict(DEFAULT_QUERY)
    given: set[str] = set()
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("a --query is not KEY=VALUE; write it like StudyDate=20200101-")
        if key != "fuzzymatching" and not all(map(_is_attribute, key.split("."))):
            raise ConfigError(
                f"--query {key!r} is no DICOM attribute; use a keyword, as StudyDate, or a tag, "
                "as 00080020"
            )
        if key in given:
            raise ConfigError(f"--query {key!r} is given twice; give it once")
        given.add(key)
        fields[key] = value
    return tuple((key, value) for key, value in fields.items() if value)


def find_studies(
    client: DicomWebClient, query: Sequence[tuple[str, str]], config: DicomWebConfig
) -> list[str]:
    """Study Instance UIDs that match, sorted.

    Raises:
        DataError: the server cannot be searched.
        JobFailedError: it is gone.
    """
    try:
        found = _find(client, ("studies",), query, config, lambda item: _uid(item, _STUDY_UID))
    except FetchFailedError as error:
        raise DataError(
            f"DICOMweb server {client.server} cannot be searched ({error}); check the URL, which "
            "is the base of the service (as .../dicom-web of Orthanc, .../rs of dcm4chee), and "
            "what you may do there"
        ) from None
    return sorted(found)


def find_instances(
    client: DicomWebClient, study_uid: str, config: DicomWebConfig
) -> list[Instance]:
    """Instances of a study, sorted.

    Raises:
        FetchFailedError: the server does not tell them.
        JobFailedError: it is gone.
    """

    def read(item: Any) -> Instance:  # noqa: ANN401 - any JSON value
        return Instance(
            study_uid=study_uid,
            series_uid=_uid(item, _SERIES_UID),
            instance_uid=_uid(item, _INSTANCE_UID),
            sop_class=_text(item, _SOP_CLASS),
            modality=_text(item, _MODALITY),
        )

    path = ("studies", study_uid, "instances")
    return sorted(_find(client, path, (), config, read, all_first=True))


def read_attributes(
    client: DicomWebClient, instance: Instance, keywords: Sequence[str], config: DicomWebConfig
) -> dict[str, str]:
    """Some attributes of an instance, as texts; empty where it has none.

    Raises:
        FetchFailedError: the server does not tell them.
        JobFailedError: it is gone.
    """
    from pydicom import Dataset

    tags = {keyword: f"{tag_for_keyword(keyword):08X}" for keyword in keywords}

    def receive(answer: Answer) -> dict[str, str]:
        (item,) = _read_items(answer, config.max_search_bytes)
        told = Dataset.from_json({tag: item[tag] for tag in tags.values() if tag in item})
        return {keyword: str(told.get(keyword) or "") for keyword in keywords}

    path = (
        *("studies", instance.study_uid),
        *("series", instance.series_uid),
        *("instances", instance.instance_uid, "metadata"),
    )
    try:
        return client.get(path, receive, accept=_ACCEPT)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FetchFailedError(f"metadata that cannot be read: {type(error).__name__}") from None


def _find(
    client: DicomWebClient,
    path: Sequence[str],
    query: Sequence[tuple[str, str]],
    config: DicomWebConfig,
    read: Callable[[Any], T],
    *,
    all_first: bool = False,
) -> set[T]:
    def ask(*paging: tuple[str, str]) -> tuple[list[T], bool]:
        def receive(answer: Answer) -> tuple[list[T], bool]:
            items = _read_items(answer, config.max_search_bytes)
            return [read(item) for item in items], answer.warning.startswith("299")

        return client.get(path, receive, accept=_ACCEPT, fields=[*query, *paging])

    all_asked, is_cut, offset_works = all_first, False, False
    found: set[T] = set()
    if all_first:
        everything, is_cut = ask()
        found.update(everything)
    offset = len(found)
    while True:
        page, _ = ask(("limit", str(config.page_size)), ("offset", str(offset)))
        if not found.issuperset(page):
            offset_works = offset_works or offset > 0
            found.update(page)
            offset += len(page)
            continue
        if not page and (offset_works or not found):
            return found
        if page or not all_asked:
            everything, is_cut = ask()
            all_asked = True
            if not found.issuperset(everything):
                found.update(everything)
                offset = len(found)
                continue
        if is_cut:
            raise FetchFailedError("its pages lead nowhere and it does not give all at once")
        return found


def _read_items(answer: Answer, max_bytes: int) -> list[Any]:
    body = bytearray()
    for chunk in answer.chunks:
        body += chunk
        if len(body) > max_bytes:
            raise FetchFailedError(
                f"an answer above {max_bytes:,} bytes: raise dicomweb.max_search_bytes"
            )
    if not body and not answer.is_announced:
        raise CutOffError
    if not body:  # 204: nothing matches
        return []
    try:
        items = json.loads(body)
    except (ValueError, RecursionError):
        if "json" in answer.content_type.lower():
            raise CutOffError from None
        kind = "HTML" if "html" in answer.content_type.lower() else "no JSON"
        raise FetchFailedError(f"the answer is {kind}") from None
    if not isinstance(items, list):
        raise FetchFailedError("the answer is no list")
    return items


def _uid(item: Any, tag: str) -> str:  # noqa: ANN401 - any JSON value
    try:
        (value,) = item[tag]["Value"]
    except (KeyError, TypeError, ValueError):
        value = None
    if not isinstance(value, str) or not _UID.fullmatch(value):
        raise FetchFailedError(f"an item of the answer has no usable UID {tag}")
    return value


def _text(item: Any, tag: str) -> str:  # noqa: ANN401 - any JSON value
    """The one text of an attribute that a server may leave out; else empty."""
    try:
        (value,) = item[tag]["Value"]
    except (KeyError, TypeError, ValueError):
        return ""
    return value if isinstance(value, str) else ""


def _is_attribute(key: str) -> bool:
    return tag_for_keyword(key) is not None or re.fullmatch(r"[0-9A-Fa-f]{8}", key) is not None
