"""Google Cloud Vision's document text detection, by its own client over REST."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NoReturn

import requests
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud import vision
from google.rpc import code_pb2

from shared.contract.pages import Box
from shared.errors import BusyError, ConfigurationError, TerminalError, TransientError

from .page_text import ReadWord

MODEL = "builtin/stable"
TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
"""After a 429 that does not say how long: the quota is one of a minute."""

_Break = vision.TextAnnotation.DetectedBreak.BreakType
_LINE_ENDS = frozenset({_Break.EOL_SURE_SPACE, _Break.LINE_BREAK, _Break.HYPHEN})


class GoogleVision:
    """Reads page images by a service that bills each. Retries belong to the queue, so its own are off."""

    version = f"v1 {MODEL}"

    def __init__(self, *, api_key: str | None, credentials_file: str | None, endpoint: str | None) -> None:
        """One of key and service account; ``endpoint`` keeps the data in a region (https://eu-vision.googleapis.com).

        Raises ConfigurationError.
        """
        options: dict[str, Any] = {"api_endpoint": endpoint}
        if api_key is not None:
            options["api_key"] = api_key
        elif credentials_file is not None:
            options["credentials_file"] = credentials_file
        else:
            raise ConfigurationError(
                "engine_key_missing", "OCR_ENGINE=google needs GOOGLE_CLOUD_API_KEY or GOOGLE_APPLICATION_CREDENTIALS."
            )
        try:
            self._client = vision.ImageAnnotatorClient(transport="rest", client_options=options)
        except (GoogleAuthError, OSError, ValueError):
            raise ConfigurationError(
                "engine_key_unreadable", "GOOGLE_APPLICATION_CREDENTIALS: no service account's key file."
            ) from None

    async def recognise(self, jpeg: bytes) -> list[list[list[ReadWord]]]:
        request = vision.AnnotateImageRequest(
            image=vision.Image(content=jpeg),
            features=[vision.Feature(type_=vision.Feature.Type.DOCUMENT_TEXT_DETECTION, model=MODEL)],
        )
        return await asyncio.to_thread(self._annotate, request)

    def _annotate(self, request: vision.AnnotateImageRequest) -> list[list[list[ReadWord]]]:
        try:
            (answer,) = self._client.batch_annotate_images(
                requests=[request], retry=None, timeout=TIMEOUT_SECONDS
            ).responses
        except exceptions.GoogleAPICallError as error:
            _fail(int(error.code or 500), _retry_after(error))
        except (requests.RequestException, GoogleAuthError):
            raise TransientError("engine_unreachable", "The recognition service can't be reached.") from None
        except (ValueError, exceptions.GoogleAPIError):
            raise TransientError("engine_reply_unreadable", "The recognition service's reply can't be read.") from None
        if answer.error.code:
            # One image's error comes with a 200 around it, as a code of gRPC's.
            _fail(_HTTP.get(answer.error.code, 500), PATIENCE_SECONDS)
        return blocks_of(answer.full_text_annotation)


def blocks_of(annotation: vision.TextAnnotation) -> list[list[list[ReadWord]]]:
    """Vision's pages, blocks, paragraphs, words and symbols as blocks of lines of words."""
    return [list(_lines(block)) for page in annotation.pages for block in page.blocks]


def _lines(block: vision.Block) -> Iterator[list[ReadWord]]:
    line: list[ReadWord] = []
    parts: list[ReadWord] = []
    for paragraph in block.paragraphs:
        for word in paragraph.words:
            text = "".join(symbol.text for symbol in word.symbols)
            after = word.symbols[-1].property.detected_break.type_ if word.symbols else _Break.UNKNOWN
            # A hyphen at a line's end is not in its text, though it is on the page.
            parts.append(ReadWord(text + ("-" if after == _Break.HYPHEN else ""), _box(word), word.confidence))
            if after == _Break.UNKNOWN:
                continue  # punctuation is a word of its own: "104" "g" "/" "L" are two words on the page
            line.append(_joined(parts))
            parts = []
            if after in _LINE_ENDS:
                yield line
                line = []
        if parts:
            line.append(_joined(parts))
            parts = []
        if line:
            yield line
            line = []


def _joined(parts: list[ReadWord]) -> ReadWord:
    """One word of what has no space in between, as sure as its least sure part."""
    x0, y0, x1, y1 = zip(*(part.box for part in parts), strict=True)
    text = "".join(part.text for part in parts)
    return ReadWord(text, (min(x0), min(y0), max(x1), max(y1)), min(part.confidence for part in parts))


def _box(word: vision.Word) -> Box:
    """Of a turned word, the upright box around it. A coordinate of 0 is left out on the wire."""
    xs = [float(vertex.x) for vertex in word.bounding_box.vertices]
    ys = [float(vertex.y) for vertex in word.bounding_box.vertices]
    return (min(xs, default=0.0), min(ys, default=0.0), max(xs, default=0.0), max(ys, default=0.0))


_HTTP = {
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
}


def _retry_after(error: exceptions.GoogleAPICallError) -> float:
    headers = getattr(error.response, "headers", None) or {}
    try:
        return min(max(float(headers.get("Retry-After", PATIENCE_SECONDS)), 1.0), 3600.0)
    except ValueError:
        return PATIENCE_SECONDS


def _fail(status: int, patience: float) -> NoReturn:
    """Without a cause: the service's messages may quote what it was sent."""
    if status == 429:
        raise BusyError(
            "engine_rate_limited", "The recognition service asks for patience.", timedelta(seconds=patience)
        ) from None
    if status >= 500 or status == 408:
        raise TransientError("engine_unavailable", f"The recognition service answered {status}.") from None
    if status in (401, 403):
        raise TerminalError(
            "engine_access_denied", f"The recognition service answered {status}. Check the key and its project."
        ) from None
    raise TerminalError("engine_request_refused", f"The recognition service refuses the page ({status}).") from None
