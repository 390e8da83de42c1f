"""Storing a report on the configured DICOMweb server (STOW-RS, PS3.18 section 10.5).

Address and credentials are checked as for reading from one (`sonoray.ingest.dicomweb.server_url`):
the address stands in the configuration, credentials in the environment alone.
"""

import logging
from typing import TYPE_CHECKING

from sonoray.ingest.dicomweb.server_url import Address
from sonoray_serve.problems import ApiError, Problem

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TIMEOUT_S = 20.0
TRIES = 2
"""A second one after a server's hiccup; a person waits for the answer."""

_STORED_UID = "ReferencedSOPInstanceUID"


def store(document: "Dataset", address: Address) -> None:
    """Store a document.

    Raises:
        ApiError: 502; the server is not there, or did not say that it has the document.
    """
    from dicomweb_client import DICOMwebClient
    from requests import RequestException, Session

    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)  # its lines name instances
    session = Session()
    session.trust_env = False  # a patient's report must not take a proxy's detour
    headers = {"Authorization": address.authorization} if address.authorization else {}
    with session:
        client = DICOMwebClient(address.url, session=session, headers=headers, timeout=TIMEOUT_S)
        client.set_http_retry_params(max_attempts=TRIES, wait_exponential_multiplier=200)
        try:
            told = client.store_instances([document])
        except (RequestException, ValueError, OSError):
            raise ApiError(Problem.NOT_STORED) from None
    stored = {str(each.get(_STORED_UID)) for each in told.get("ReferencedSOPSequence", ())}
    if str(document.SOPInstanceUID) not in stored:
        raise ApiError(Problem.NOT_STORED)
