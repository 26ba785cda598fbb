"""A model behind OpenAI's API, or behind any server that speaks its chat completions.

Replies are read raw (status, refusal, truncation, usage) before anything is validated, so it is one POST and no SDK:
OpenAI's own walks through requests and replies that nobody looks at there, for a fifth of what the service takes of a
core. Servers other than OpenAI's answer ``/responses`` but may ignore the schema, so they get chat completions; what
really holds is probed at the start (``probe.py``). No text of a document or reply is in any error.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from opentelemetry.trace import Span
from pydantic import BaseModel, ValidationError

from services.ai import instructions
from services.ai.usage import Price, record_call, record_usage
from services.ai.wire import NarrateInputs, ProbeInputs, WireInputs
from shared.errors import BusyError, ChartloomError, TerminalError, TransientError
from shared.telemetry import model_span

from . import Answer, AskingProvider, Completion, OutputInvalidError, OutputTruncatedError, Task

_WINDOW = 6000
"""Characters of a page in one question: about 1,500 tokens in, and dense lab pages answer with five times as many."""
_OPENAI = "https://api.openai.com/v1"
_CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 15.0
_RETRY_AFTER_DEFAULT = timedelta(seconds=20)
_RETRY_AFTER_LONGEST = timedelta(hours=1)
# OpenAI's strict mode refuses or ignores these; our own validation applies them all the same.
_NOT_STRICT = {"maxLength", "minLength", "title", "default"}


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a reply says about itself, whichever API it came from."""

    text: str
    finish: str
    refused: bool
    truncated: bool
    model: str
    request_id: str | None
    usage: dict[str, int] = field(default_factory=dict)


class _Frame(NamedTuple):
    """A request's JSON before and after the question. Made once: prompt and schema are most of it, and never change."""

    head: bytes
    tail: bytes

    def around(self, question: str) -> bytes:
        return self.head + json.dumps(question, ensure_ascii=False).encode() + self.tail


_QUESTION = "\ue000question\ue000"
"""Where it goes: a string of characters for private use, which no prompt has."""


@cache
def _frame(model: str, task: Task, schema: type[BaseModel], *, responses: bool) -> _Frame:
    prompt = instructions.text(task)
    form = {"name": task.value, "schema": _strict(schema.model_json_schema()), "strict": True}
    body: dict[str, Any] = {"model": model}
    if responses:
        body |= {"instructions": prompt, "input": _QUESTION, "store": False}
        body["text"] = {"format": {"type": "json_schema", **form}}
    else:
        body["messages"] = [{"role": "system", "content": prompt}, {"role": "user", "content": _QUESTION}]
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    head, tail = json.dumps(body, ensure_ascii=False).split(f'"{_QUESTION}"')
    return _Frame(head.encode(), tail.encode())


def _proxy(url: str) -> str | None:
    """The environment's proxy for it. Asked once: aiohttp would look, and read ~/.netrc, at every request."""
    host = urlsplit(url).hostname or ""
    return None if proxy_bypass(host) else getproxies().get(urlsplit(url).scheme)


def _strict(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            name: ({key: _strict(value) for key, value in part.items()} if name == "properties" else _strict(part))
            for name, part in schema.items()
            if name not in _NOT_STRICT
        }
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    return schema


def _question(inputs: WireInputs) -> str:
    """The question's data. The mark is new every time: no document can hold it, so none can end its own block."""
    if isinstance(inputs, ProbeInputs):
        return inputs.greeting
    mark = secrets.token_hex(8)
    if isinstance(inputs, NarrateInputs):
        return f"<facts-{mark}>\n{inputs.model_dump_json()}\n</facts-{mark}>"
    about = inputs.model_dump(exclude={"passage"})
    asked = f"<findings-{mark}>\n{json.dumps(about, ensure_ascii=False)}\n</findings-{mark}>\n" if about else ""
    return f"{asked}<document-{mark}>\n{inputs.passage.text}\n</document-{mark}>"


def _retry_after(headers: Mapping[str, str]) -> timedelta:
    raw = headers.get("retry-after", "")
    try:
        wait = timedelta(seconds=float(raw))
    except ValueError:
        try:
            wait = parsedate_to_datetime(raw) - datetime.now(UTC)
        except (TypeError, ValueError):
            return _RETRY_AFTER_DEFAULT
    return min(max(wait, timedelta(0)), _RETRY_AFTER_LONGEST)


def _refused(status: int, headers: Mapping[str, str], content: bytes) -> ChartloomError:
    if status == 429:
        # An exhausted account answers 429 too, and no patience helps it.
        if b'"insufficient_quota"' in content:
            return TerminalError("model_quota_exhausted", "The model account has no quota left: top it up, redrive.")
        return BusyError("model_rate_limited", "The model endpoint asks for patience.", _retry_after(headers))
    if status >= 500 or status in (408, 409):
        return TransientError("model_unavailable", f"The model endpoint answered {status}.")
    if status in (401, 403):
        return TerminalError("model_access_denied", f"The model endpoint answered {status}. Check key and model.")
    return TerminalError("model_request_refused", f"The model endpoint answered {status}. Check model and base URL.")


class OpenAIProvider(AskingProvider):
    """Asks a model. One question is one request, plus one repair at most; all other retries belong to the queue."""

    name = "openai"
    window = _WINDOW

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str | None,
        timeout_s: float,
        responses: bool | None = None,
        price: Price | None = None,
    ) -> None:
        """``responses``: which API to speak; by default OpenAI's own host gets Responses, all others get chat."""
        self.model = model
        self._price = price
        self._timeout_s = timeout_s
        self._api_key = api_key
        self._base_url = (base_url or _OPENAI).rstrip("/")
        self._opened: aiohttp.ClientSession | None = None
        at_openai = (urlsplit(self._base_url).hostname or "").endswith("api.openai.com")
        self.speaks_responses = at_openai if responses is None else responses

    def prompt_version(self, task: Task) -> str:
        return instructions.version(task)

    def fall_back(self) -> bool:
        """From Responses to chat completions, which more servers hold to a schema."""
        fell, self.speaks_responses = self.speaks_responses, False
        return fell

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def ask(
        self, task: Task, inputs: WireInputs, schema: type[Answer], complaint: str | None = None
    ) -> Completion[Answer]:
        """One call, as one span and one measurement."""
        question = _question(inputs)
        began = time.monotonic()
        outcome = "broken_off"
        with model_span(self.name, self.model) as span:
            try:
                asked = question if complaint is None else f"{question}\n\n{complaint}"
                frame = _frame(self.model, task, schema, responses=self.speaks_responses)
                answered = await self._call(frame.around(asked))
                outcome = "answered"
            except ChartloomError as error:
                outcome = error.code
                raise
            finally:
                record_call(self.model, outcome, time.monotonic() - began)
            _describe(span, answered)
        record_usage(self.model, answered.usage, self._price)
        if answered.refused:
            raise TerminalError("model_refused", "The model declined this document. Review it by hand.")
        if answered.truncated:
            raise OutputTruncatedError(answered.usage)
        return Completion(
            parsed=_parsed(answered, schema),
            raw=answered.text,
            usage=answered.usage,
            model=answered.model,
            request_id=answered.request_id,
            finish=answered.finish,
            latency_s=time.monotonic() - began,
        )

    async def _call(self, body: bytes) -> _Answered:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await (self._ask_responses(body) if self.speaks_responses else self._ask_chat(body))
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            failed = TransientError("model_unreachable", "The connection to the model endpoint failed or broke off.")
        except TimeoutError:
            failed = TransientError("model_timeout", "The model endpoint did not answer in time.")
        except aiohttp.ClientError:
            failed = TransientError("model_reply_unreadable", "The model endpoint's reply could not be read.")
        # Raised outside the handlers: the client's errors may hold what was sent, and a trace would print it.
        raise failed

    def _session(self) -> aiohttp.ClientSession:
        """From the first call on: it belongs to the loop that it is opened in."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"},
                # How many there may be is for WORKER_CONCURRENCY to say.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                proxy=_proxy(self._base_url),
            )
        return self._opened

    async def _post(self, path: str, body: bytes) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of the reply. A redirect is a refusal: no record follows it to another host."""
        async with self._session().post(self._base_url + path, data=body, allow_redirects=False) as reply:
            content = await reply.read()
        if reply.status >= 300:
            raise _refused(reply.status, reply.headers, content)
        return reply.headers, content

    async def _ask_responses(self, sent: bytes) -> _Answered:
        headers, content = await self._post("/responses", sent)
        body = _body(content)
        status = str(body.get("status"))
        if status == "failed":
            raise TransientError("model_failed", "The model endpoint reports that it failed.")
        parts = [part for item in _dicts(body.get("output")) for part in _dicts(item.get("content"))]
        reason = (body.get("incomplete_details") or {}).get("reason")
        usage = body.get("usage") or {}
        return _Answered(
            text="".join(str(part.get("text", "")) for part in parts if part.get("type") == "output_text"),
            finish=str(reason or status),
            refused=reason == "content_filter" or any(part.get("type") == "refusal" for part in parts),
            truncated=reason == "max_output_tokens" or status == "incomplete",
            model=str(body.get("model") or self.model),
            request_id=headers.get("x-request-id"),
            usage=_counts(usage, input_tokens="input_tokens", output_tokens="output_tokens"),
        )

    async def _ask_chat(self, sent: bytes) -> _Answered:
        headers, content = await self._post("/chat/completions", sent)
        body = _body(content)
        choices = _dicts(body.get("choices"))
        if not choices:
            raise TransientError("model_reply_unreadable", "The model endpoint's reply holds no choice.")
        finish = str(choices[0].get("finish_reason"))
        message = choices[0].get("message") or {}
        return _Answered(
            text=str(message.get("content") or ""),
            finish=finish,
            refused=finish == "content_filter" or bool(message.get("refusal")),
            truncated=finish == "length",
            model=str(body.get("model") or self.model),
            request_id=headers.get("x-request-id"),
            usage=_counts(body.get("usage") or {}, input_tokens="prompt_tokens", output_tokens="completion_tokens"),
        )


def _describe(span: Span, answered: _Answered) -> None:
    span.set_attributes(
        {
            "gen_ai.response.model": answered.model,
            "gen_ai.response.finish_reasons": [answered.finish],
            "gen_ai.usage.input_tokens": answered.usage.get("input_tokens", 0),
            "gen_ai.usage.output_tokens": answered.usage.get("output_tokens", 0),
        }
    )


def _parsed(answered: _Answered, schema: type[Answer]) -> Answer:
    try:
        return schema.model_validate_json(answered.text)
    except ValidationError as error:
        complaint = _complaint(error)
    # Outside the handler: pydantic's error quotes the reply.
    raise OutputInvalidError(complaint, answered.usage)


def _body(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise TransientError("model_reply_unreadable", "The model endpoint's reply is no JSON object.")
    return body


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _counts(usage: dict[str, Any], **names: str) -> dict[str, int]:
    return {"requests": 1} | {ours: int(usage.get(theirs) or 0) for ours, theirs in names.items()}


def _complaint(error: ValidationError) -> str:
    """What was wrong, by place and type only: the reply itself is not sent round again."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:5]
    listed = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'reply'}: {fault['type']}" for fault in faults)
    return f"Your last reply did not fit the schema ({listed}). Answer again, with JSON of the schema only."
