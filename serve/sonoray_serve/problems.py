"""Every error that a client may see: status, code and a fixed text.

The texts hold the service's own limits and nothing else: no library's message and no part of the
request, which could carry a patient's data into a log or a path of this machine into an answer. The
place of what is wrong is a path of the API's own names. One text has a detail: what the model's
chat template says to the order of roles, which is all it is shown. The shape on the wire is
OpenAI's error object. What is nobody's fault but ours is logged by `contained` with its place in
the code and without its message, for the same reason.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from sonoray.study.prompt import SITE_CUE

_INVALID = "invalid_request_error"


class Problem(Enum):
    """An error's HTTP status, OpenAI type and text; its code is the member's name, lower case."""

    INVALID_JSON = (400, _INVALID, "The body is not valid JSON.")
    TOO_MANY_VALUES = (
        400,
        _INVALID,
        "The body has too many values; at most {limit} commas and brackets are accepted.",
    )
    INVALID_VALUE = (
        400,
        _INVALID,
        "A parameter is missing or has a value that is not accepted{place}{detail}.",
    )
    UNSUPPORTED_PARAMETER = (
        400,
        _INVALID,
        "A parameter or its value is not supported by this server{place}.",
    )
    UNKNOWN_PARAMETER = (
        400,
        _INVALID,
        "The request has a parameter that the API does not know{place}.",
    )
    NOT_WITH_OPTIONS = (
        400,
        _INVALID,
        "A closed question has one answer, without tokens to tell of{place}; leave it out.",
    )
    OPTIONS_NOT_ACCEPTED = (
        400,
        _INVALID,
        "The options must be 2 to {limit} different texts that are not empty.",
    )
    OPTION_NOT_ACCEPTED = (
        400,
        _INVALID,
        "An option has characters that the model does not know.",
    )
    NOT_THE_STUDENTS = (
        400,
        _INVALID,
        "The student answers closed questions that it learned, and this is none ({detail}); or ask "
        "the model itself, by its name without :student.",
    )
    NOT_OF_A_STUDENT = (
        400,
        _INVALID,
        "A student answers closed questions alone; ask the model, by its name without :student.",
    )
    RESPONSE_FORMAT_NOT_ACCEPTED = (
        400,
        _INVALID,
        "response_format is supported as text, and as a json_schema of one string with an enum, by "
        "itself or as the only property of an object.",
    )
    NOT_WITH_TOOLS = (
        400,
        _INVALID,
        "A request with tools has one answer in words or one call{place}; leave it out.",
    )
    NO_SUCH_TOOL = (
        400,
        _INVALID,
        "tool_choice names no offered tool, or two tools have one name{place}.",
    )
    TOOL_NOT_FORCED = (
        400,
        _INVALID,
        "A call can be forced where all parameters are an enum, a const or booleans, with at most "
        "{limit} calls together; use tool_choice auto for others.",
    )
    FORCED_CALL_TOO_LONG = (
        400,
        _INVALID,
        "A forced call with all its arguments is too long; at most {limit} characters are "
        "accepted: shorten the names and values of the tools.",
    )
    NO_SUCH_CALL = (
        400,
        _INVALID,
        "A tool message must name a call of the assistant message before it{place}.",
    )
    CALL_WITHOUT_RESULT = (
        400,
        _INVALID,
        "Every tool call needs a tool message with its result behind it{place}.",
    )
    CALL_WITHOUT_QUESTION = (
        400,
        _INVALID,
        "A tool is called behind a question of the user's{place}.",
    )
    EMPTY_ANSWER = (
        400,
        _INVALID,
        "An assistant message has neither text nor tool calls{place}.",
    )
    LOGPROBS_NEEDED = (400, _INVALID, "top_logprobs asks for logprobs = true beside it.")
    TOO_MANY_CHOICES = (400, _INVALID, "n is too large; at most {limit} answers.")
    LAST_MESSAGE_NOT_USER = (
        400,
        _INVALID,
        "The last message must be the user's question, or a tool's result.",
    )
    EMPTY_QUESTION = (400, _INVALID, "The last message has no text; ask a question.")
    NO_SITE = (
        400,
        _INVALID,
        "This model was trained to be told the examination site; begin the first question with "
        + SITE_CUE.format(site="SITE"),
    )
    TOO_FEW_IMAGES = (
        400,
        _INVALID,
        "Too few images; a question here needs at least {limit}, as data: URLs.",
    )
    SEVERAL_STUDIES = (
        400,
        _INVALID,
        "Images stand in more than one message; put all images of the study into one.",
    )
    TOO_MANY_IMAGES = (400, _INVALID, "Too many images; at most {limit} make one study.")
    TOO_MANY_MESSAGES = (400, _INVALID, "Too many messages; at most {limit} are accepted.")
    PROMPT_TOO_LONG = (400, _INVALID, "Too much text; at most {limit} characters are accepted.")
    CONTEXT_LENGTH_EXCEEDED = (
        400,
        _INVALID,
        "The conversation with its images does not fit into the model's context of {limit} "
        "tokens, or has characters that the model does not know.",
    )
    CONVERSATION_NOT_ACCEPTED = (
        400,
        _INVALID,
        "The model does not take this conversation: {detail}.",
    )
    MAX_TOKENS_TOO_LARGE = (400, _INVALID, "max_tokens is too large; at most {limit}.")
    IMAGE_URL_NOT_DATA = (
        400,
        _INVALID,
        "image_url must be a data: URL of an image or of application/dicom, in base64; this server "
        "fetches no addresses.",
    )
    IMAGE_NOT_BASE64 = (400, _INVALID, "The image's data is not valid base64.")
    IMAGE_TOO_LARGE = (400, _INVALID, "The image is too large; at most {limit} bytes.")
    IMAGE_TOO_MANY_PIXELS = (
        400,
        _INVALID,
        "Too many pixels; one image, and the rest of its study, may have at most {limit}.",
    )
    IMAGE_TOO_SMALL = (400, _INVALID, "The image is too small.")
    IMAGE_NOT_ACCEPTED = (
        400,
        _INVALID,
        "The image cannot be read; send one intact 8-bit still as PNG, JPEG, WebP or BMP, or a "
        "DICOM object.",
    )
    DICOM_NOT_ACCEPTED = (
        400,
        _INVALID,
        "The DICOM object gives no picture ({detail}); send one intact object of a modality that "
        "this service reads, or export the picture as PNG.",
    )
    CLASSES_NOT_ACCEPTED = (
        400,
        _INVALID,
        "The classes are not accepted: {detail}.",
    )
    NOT_TRAINED_TO_RECOGNISE = (
        400,
        _INVALID,
        "The model that is served was not trained to recognise classes; ask it in words.",
    )
    REPORT_NEEDS_DICOM = (
        400,
        _INVALID,
        "A structured report is about DICOM objects; send images as application/dicom, or ask for "
        "format fhir.",
    )
    REPORT_NEEDS_ONE_STUDY = (
        400,
        _INVALID,
        "The DICOM objects are of several studies or patients, or do not say of which; send those "
        "of one study.",
    )
    ONLY_SR_IS_STORED = (
        400,
        _INVALID,
        "Only a structured report is stored; ask for format dicom_sr, or leave store out.",
    )
    NO_STUDY_SERVER = (
        400,
        _INVALID,
        "This service has no DICOMweb server to fetch a study from; serve.dicomweb would name it.",
    )
    STUDY_AND_IMAGES = (
        400,
        _INVALID,
        "A study is named by its UID and images are sent beside it; send one of the two.",
    )
    NO_STUDY_NAMED = (
        400,
        _INVALID,
        "Nothing says which study is meant; send images, or a study's UID.",
    )
    STUDY_NOT_USABLE = (
        400,
        _INVALID,
        "No object of the study gives a picture ({detail}).",
    )
    STUDY_OF_SEVERAL_PATIENTS = (
        400,
        _INVALID,
        "The study's objects name several patients; no answer is given about such a study.",
    )
    STUDY_HAS_TOO_MANY_PICTURES = (
        400,
        _INVALID,
        "The study has too many pictures; at most {limit} are taken: name some of its objects as "
        "instances.",
    )
    STUDY_TOO_LARGE = (
        400,
        _INVALID,
        "The study's objects are too large; at most {limit} bytes are fetched: name some of them "
        "as instances.",
    )
    STUDY_NOT_FOUND = (
        404,
        _INVALID,
        "The DICOMweb server has no such study or instance, or shows it not to this service.",
    )
    NO_DICOMWEB = (
        404,
        _INVALID,
        "This service stores no reports; serve.dicomweb names the server where it would.",
    )
    NO_FEEDBACK = (
        404,
        _INVALID,
        "This service keeps no feedback; serve.feedback names where it would.",
    )
    ANSWER_NOT_FOUND = (
        404,
        _INVALID,
        "This key was given no such answer; send the id of an answer as it came.",
    )
    INVALID_API_KEY = (
        401,
        "authentication_error",
        "No valid API key; send it as Authorization: Bearer KEY.",
    )
    KEY_EXPIRED = (401, "authentication_error", "This API key has expired.")
    KEY_SCOPE = (403, "permission_error", "This API key does not open this path.")
    KEY_NOT_FOR_STUDIES = (
        403,
        "permission_error",
        "This API key opens no studies of the DICOMweb server; it would need the scope studies.",
    )
    MODEL_NOT_FOUND = (404, _INVALID, "This model is not served here; see GET /v1/models.")
    NOT_FOUND = (404, _INVALID, "There is no such path.")
    METHOD_NOT_ALLOWED = (405, _INVALID, "This path does not take this method.")
    BODY_TOO_LARGE = (413, _INVALID, "The body is too large; at most {limit} bytes.")
    BUSY = (429, "rate_limit_error", "The server is full; try again after Retry-After seconds.")
    KEY_PER_MINUTE = (
        429,
        "rate_limit_error",
        "This API key may make {limit} requests a minute; try again after {detail} seconds.",
    )
    KEY_AT_ONCE = (
        429,
        "rate_limit_error",
        "This API key may have {limit} requests in work at once; try again when one has ended.",
    )
    INTERNAL = (500, "server_error", "The server failed on this request; its log says where.")
    NOT_STORED = (
        502,
        "server_error",
        "The DICOMweb server did not take the report: it is not stored; try again.",
    )
    STUDY_NOT_FETCHED = (
        502,
        "server_error",
        "The DICOMweb server did not give the study; this service's log says why.",
    )
    STUDY_SERVER_AWAY = (
        503,
        "server_error",
        "The DICOMweb server is not there just now; try again.",
    )
    UNAVAILABLE = (503, "server_error", "The model is not available just now; try again.")
    DEADLINE = (504, "server_error", "The request took longer than {limit} seconds.")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.value[0])

    @property
    def code(self) -> str:
        """The machine-readable code."""
        return self.name.lower()


class ApiError(Exception):
    """A `Problem` met by a request; crosses Ray processes unharmed."""

    def __init__(
        self,
        problem: Problem,
        param: str | None = None,
        limit: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(problem, param, limit, detail)
        self.problem = problem
        self.param = param
        self.limit = limit
        self.detail = detail

    def __str__(self) -> str:
        return self.problem.code

    def body(self) -> dict[str, Any]:
        """The OpenAI error object."""
        _, kind, text = self.problem.value
        limit = "" if self.limit is None else f"{self.limit:,}"
        place = f": {self.param}" if self.param else ""
        return {
            "error": {
                "message": text.format(limit=limit, detail=self.detail, place=place),
                "type": kind,
                "param": self.param,
                "code": self.problem.code,
            }
        }


class InternalError(Exception):
    """A failure of ours, reduced to its type and its place in the code."""


@contextmanager
def contained(logger: logging.Logger) -> Iterator[None]:
    """Let no foreign exception out: a library's message may quote the request.

    Raises:
        InternalError: in place of any exception that is not ours; logged here, once.
    """
    try:
        yield
    except (ApiError, InternalError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        logger.error("request failed: %s", place)  # no traceback: it ends in the message
        raise InternalError(place) from None
