"""``python -m bench.model_endpoint SECONDS``: a model endpoint that answers after so long, thousands in flight.

It speaks chat completions. What it finds are words that the document has, so that all three passes have something to
ask; what it says costs it next to nothing.
"""

import asyncio
import json
import re
import sys
from typing import Any

import uvloop
from aiohttp import web

from .peers.protocol import say

WORD = re.compile(r"[A-Za-z]{6,}")
ID = re.compile(r'"id": ?"([^"]+)"')
MENTIONS = 3
TOKENS = {"prompt_tokens": 1500, "completion_tokens": 200, "total_tokens": 1700}


def mentions(asked: str) -> dict[str, Any]:
    document = asked.split("<document-", 1)[1].split(">\n", 1)[1]
    words = dict.fromkeys(WORD.findall(document.rpartition("</document-")[0]))
    return {
        "mentions": [
            {"quote": word, "occurrence": 1, "kind": "observation", "label": "test"} for word in list(words)[:MENTIONS]
        ]
    }


def understandings(asked: str) -> dict[str, Any]:
    ids = ID.findall(asked.partition("</findings-")[0])
    return {"entities": [{"id": i, "assertion": "affirmed", "subject": "patient", "details": []} for i in ids]}


def claims(asked: str) -> dict[str, Any]:
    return {"sentences": [{"text": "This was found in the record.", "entity_ids": ID.findall(asked)[:1]}]}


ANSWERS = {"detect": mentions, "enrich": understandings, "narrate": claims}


def application(seconds: float) -> web.Application:
    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        asked = body["messages"][-1]["content"]
        form = body["response_format"]["json_schema"]
        if form["name"] == "probe":
            answer = {"word": form["schema"]["properties"]["word"]["enum"][0]}
        else:
            answer = ANSWERS[form["name"]](asked)
            await asyncio.sleep(seconds)
        message = {"role": "assistant", "content": json.dumps(answer), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": body["model"]}
        return web.json_response({**head, "choices": [choice], "usage": TOKENS})

    app = web.Application(client_max_size=8 * 2**20)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def serve(seconds: float) -> None:
    runner = web.AppRunner(application(seconds), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    say("port", str(runner.addresses[0][1]))
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(serve(float(sys.argv[1])))
