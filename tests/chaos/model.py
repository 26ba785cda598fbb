"""The model endpoint: always the same answer to the same question, and now and then none."""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from typing import Any

from services.ai.providers import Task
from tests.fakes.openai_server import Play
from tests.letters import DIAGNOSES, MEDICINES, TERMS, TESTS

FAULTS = {
    "429 with Retry-After": Play(status=429, headers={"Retry-After": "1"}),
    "500": Play(status=500),
    "503": Play(status=503),
    "no answer in time": Play(hang=True),
    "answer cut off": Play(cut=True),
}
FAULTY = 0.35
"""Of the questions: each fails once. A job asks two or three, so they cost it three of its five retries at most."""
TOLD = 5
_BLOCK = re.compile(r"<(?P<name>document|findings|facts)-(?P<mark>\w+)>\n(?P<body>.*?)\n</(?P=name)-(?P=mark)>", re.S)


class Model:
    """A script for the fake endpoint. ``seed`` None: it never fails."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._asked: defaultdict[str, int] = defaultdict(int)
        self.faults: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any]) -> Play:
        task: str = body["response_format"]["json_schema"]["name"]
        blocks = {found["name"]: found["body"] for found in _BLOCK.finditer(body["messages"][-1]["content"])}
        # The marks around the blocks are new each time, the question is not.
        question = hashlib.sha256(json.dumps([task, blocks], sort_keys=True).encode()).hexdigest()
        turn = self._asked[question]
        self._asked[question] += 1
        source = random.Random(f"{self._seed} {question}")
        if self._seed is not None and turn == 0 and source.random() < FAULTY:
            fault = source.choice(list(FAULTS))
            self.faults[fault] += 1
            return FAULTS[fault]
        return Play(_ANSWERS[Task(task)](blocks))


def _mentions(blocks: dict[str, str]) -> dict[str, Any]:
    return {
        "mentions": [
            {"quote": term, "occurrence": 1, "kind": _kind(term), "label": _label(term)}
            for term in TERMS
            if term in blocks["document"]
        ]
    }


def _understandings(blocks: dict[str, str]) -> dict[str, Any]:
    return {
        "entities": [
            {
                "id": target["id"],
                "assertion": "negated" if f"No {target['quote']}" in blocks["document"] else "affirmed",
                "subject": "patient",
                "details": [],
            }
            for target in json.loads(blocks["findings"])["targets"]
        ]
    }


def _sentences(blocks: dict[str, str]) -> dict[str, Any]:
    facts = [fact for fact in json.loads(blocks["facts"])["facts"] if fact["assertion"] == "affirmed"]
    return {
        "sentences": [
            {"text": f"The letter mentions {fact['text']}.", "entity_ids": [fact["id"]]} for fact in facts[:TOLD]
        ]
    }


_ANSWERS = {Task.DETECT: _mentions, Task.ENRICH: _understandings, Task.NARRATE: _sentences}


def _label(term: str) -> str:
    if term in DIAGNOSES:
        return "disease"
    if term in MEDICINES:
        return "medication"
    return "test" if term in TESTS else "symptom"


def _kind(term: str) -> str:
    return {"disease": "event", "medication": "intervention"}.get(_label(term), "observation")
