"""The question at the start: does the endpoint keep to a schema? Some take one, answer well, and never looked at it.

The schema asks for a word that stands nowhere in the question: only who is held to the schema can say it.
"""

import asyncio
import secrets
from typing import Annotated

import structlog
from pydantic import AfterValidator, Field, create_model

from services.ai.wire import ProbeInputs, Wire
from shared.database import CONNECTION_ERRORS
from shared.errors import BusyError, ConfigurationError, TerminalError, TransientError

from . import AskingProvider, OutputInvalidError, Task, UnusableReplyError

_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_AT_MOST_SECONDS = 60.0
"""For one API: the watchdog takes a service that has not begun to claim after 150 s for a dead one."""
_GREETING = ProbeInputs(greeting="Good morning.")


async def probe(provider: AskingProvider) -> None:
    """Asks, by the next best API where the first ignores the schema. Raises ConfigurationError where none keeps it.

    An endpoint that does not answer at all is no misconfiguration: the service starts and its jobs wait for it.
    """
    log = structlog.get_logger()
    while True:
        try:
            async with asyncio.timeout(_AT_MOST_SECONDS):
                keeps = await _keeps_to_schema(provider)
        except TimeoutError:
            keeps = None
        except TerminalError as error:
            raise ConfigurationError(error.code, f"The model endpoint refuses: {error.message}") from None
        if keeps is None:
            log.warning("model_not_probed", model=provider.model)
            return
        if keeps:
            return
        if not provider.fall_back():
            raise ConfigurationError(
                "model_schema_ignored",
                f"The endpoint ignores the JSON schema that it is given ({provider.model}): its answers can't be used. "
                "Choose a model or a server that enforces schemas (strict structured outputs).",
            )
        log.info("model_api_changed", model=provider.model)


async def _keeps_to_schema(provider: AskingProvider) -> bool | None:
    """None where nobody answered."""
    word = secrets.token_hex(4)

    def is_it(said: str) -> str:
        if said != word:
            raise ValueError("another word")
        return said

    said = Annotated[str, Field(json_schema_extra={"enum": [word]}), AfterValidator(is_it)]
    schema: type[Wire] = create_model("Probe", __base__=Wire, word=said)
    attempts = 0
    while attempts < _ATTEMPTS:
        try:
            await provider.ask(Task.PROBE, _GREETING, schema)
        except CONNECTION_ERRORS:
            # The database's, whose rows hold the endpoint's limits: nobody was asked.
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        except OutputInvalidError:
            return False
        except UnusableReplyError:
            # Cut off while it wrote: nothing that is held to one short word runs on.
            return False
        except BusyError as error:
            await asyncio.sleep(error.retry_after.total_seconds())
        except TransientError:
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return True
        attempts += 1
    return None
