"""From a source's name and options to the source.

Each builder imports its source when it is asked for: DICOM, DICOMweb and video bring libraries of
their own. What a source is told stands in `known_sources`; a test holds the two in step.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sonoray.ingest.source_options import SourceOptions
from sonoray.ingest.sources.base import Source

if TYPE_CHECKING:
    from sonoray.images.video import VideoConfig
    from sonoray.ingest.dicom.dicom_config import DicomConfig
    from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
    from sonoray.ingest.ingest_config import IngestConfig
    from sonoray.phantom.cohort import PhantomConfig


class SourceConfigs(Protocol):
    """The sections of a configuration that sources read."""

    @property
    def ingest(self) -> "IngestConfig":
        """How every source becomes a dataset; sources take the limits of images from it."""
        ...

    @property
    def phantom(self) -> "PhantomConfig":
        """The studies that are computed."""
        ...

    @property
    def dicom(self) -> "DicomConfig":
        """How DICOM objects are read."""
        ...

    @property
    def dicomweb(self) -> "DicomWebConfig":
        """How a server is asked."""
        ...

    @property
    def video(self) -> "VideoConfig":
        """How frames of videos are chosen."""
        ...


def build_source(name: str, options: SourceOptions, configs: SourceConfigs) -> Source:
    """Make the source called `name`.

    Args:
        name: one of `KNOWN_SOURCES`.
        options: where the files lie, and what the source may be told.
        configs: a configuration with the sections that sources read.

    Raises:
        ConfigError: there is none of that name, or an option is missing, superfluous or malformed.
        DataError: the path does not hold such a source.
    """
    given = options.checked(name)
    return BUILDERS[name](configs, **given)


def _phantom(configs: SourceConfigs, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.synthetic import PhantomSource

    return PhantomSource(configs.phantom, **given)


def _busbra(configs: SourceConfigs, *, path: Path, **given: Any) -> Source:  # noqa: ANN401 - checked
    from sonoray.ingest.published.busbra import BusBraSource

    return BusBraSource(path, limits=configs.ingest.images, **given)


def _busi(configs: SourceConfigs, *, path: Path, **given: Any) -> Source:  # noqa: ANN401 - checked
    from sonoray.ingest.published.busi import BusiSource

    return BusiSource(path, limits=configs.ingest.images, **given)


def _dicom(configs: SourceConfigs, *, charset: str = "", **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.dicom_archive import DicomSource

    config = _with_charset(configs.dicom, charset)
    return DicomSource(config=config, limits=configs.ingest.images, **given)


def _dicomweb(
    configs: SourceConfigs,
    *,
    url: str,
    query: tuple[str, ...] = (),
    charset: str = "",
    **given: Any,  # noqa: ANN401 - checked against `takes`
) -> Source:
    from sonoray.ingest.dicomweb.search import read_query
    from sonoray.ingest.dicomweb.server_url import read_address
    from sonoray.ingest.sources.dicomweb_server import DicomWebSource

    return DicomWebSource(
        read_address(url, credentials_over_http=configs.dicomweb.credentials_over_http),
        read_query(query),
        configs.dicomweb,
        _with_charset(configs.dicom, charset),
        limits=configs.ingest.images,
        **given,
    )


def _with_charset(config: "DicomConfig", charset: str) -> "DicomConfig":
    return config.model_copy(update={"declared_charset": charset}) if charset else config


def _feedback(configs: SourceConfigs, *, url: str, **given: Any) -> Source:  # noqa: ANN401 - checked
    from sonoray.ingest.feedback_source import FeedbackSource

    del configs  # all that it needs is in the table
    return FeedbackSource(url, **given)


def _llava(configs: SourceConfigs, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.llava import LlavaSource

    return LlavaSource(limits=configs.ingest.images, **given)


def _pocovid(configs: SourceConfigs, *, path: Path, **given: Any) -> Source:  # noqa: ANN401 - checked
    from sonoray.ingest.published.pocovid import PocovidSource

    return PocovidSource(path, limits=configs.ingest.images, **given)


def _slake(configs: SourceConfigs, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.published.slake import SlakeSource

    return SlakeSource(limits=configs.ingest.images, **given)


def _table(configs: SourceConfigs, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.table import TableSource

    return TableSource(video=configs.video, limits=configs.ingest.images, **given)


def _usreport(configs: SourceConfigs, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.published.usreport import UsReportSource

    return UsReportSource(limits=configs.ingest.images, **given)


def _video(configs: SourceConfigs, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.video_folder import VideoSource

    return VideoSource(config=configs.video, **given)


BUILDERS: Mapping[str, Callable[..., Source]] = {
    "busbra": _busbra,
    "busi": _busi,
    "dicom": _dicom,
    "dicomweb": _dicomweb,
    "feedback": _feedback,
    "llava": _llava,
    "phantom": _phantom,
    "pocovid": _pocovid,
    "slake": _slake,
    "table": _table,
    "usreport": _usreport,
    "video": _video,
}
"""By name: makes the source from the configuration and those options that are given."""
