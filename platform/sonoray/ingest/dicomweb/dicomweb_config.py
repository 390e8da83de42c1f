"""How a DICOMweb server is asked: sizes, times, tries, caps."""

from pydantic import Field

from sonoray.config.model import Config


class DicomWebConfig(Config):
    """How a DICOMweb server is asked. None of it shapes the dataset."""

    page_size: int = Field(default=200, ge=1)
    """Studies that are asked for at once; the server may give fewer."""
    requests_in_flight: int = Field(default=4, ge=1, le=64)
    """Requests at a time."""
    connect_timeout_s: float = Field(default=10, gt=0)
    """Longest wait for a connection."""
    read_timeout_s: float = Field(default=60, gt=0)
    """Longest silence of the server while it answers."""
    answer_timeout_s: float = Field(default=900, gt=0)
    """Longest time for one answer as a whole."""
    tries: int = Field(default=5, ge=1)
    """How often a request is made before it counts as failed."""
    backoff_s: float = Field(default=1, ge=0)
    """Wait before the second try; it doubles from try to try, and half of it is random."""
    max_backoff_s: float = Field(default=60, ge=0)
    """Longest wait between two tries, whatever the server's Retry-After says."""
    max_failures_in_a_row: int = Field(default=20, ge=1)
    """So many failed requests without a good one between them end the command."""
    max_search_bytes: int = Field(default=100_000_000, gt=0)
    """Largest answer to a query."""
    max_spool_bytes: int = Field(default=200_000_000_000, gt=0)
    """Most bytes of objects that wait on disk for the end of an ingest."""
    credentials_over_http: bool = False
    """Whether credentials may go over plain http to another machine, where they can be read on the
    way; a loopback address is always allowed."""
