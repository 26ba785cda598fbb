"""What recognition leaves in ``ocr_pages``, and who may know what of it."""

import asyncpg

from tests.conftest import Patient
from tests.pipeline import claim, page
from tests.users import upload

WORD = {"text": "4.2", "box": [1, 1, 5, 5], "confidence": 0.4, "start": 0, "end": 3, "uncertain": True}
TABLE = {"box": [0, 0, 9, 9], "cells": []}


async def test_the_ai_service_knows_which_numbers_are_uncertain_and_one_of_release_0_1_isnt_confused(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    job = await claim(owner, "ocr")
    rows = [
        {**page("4.2 x"), "words": [WORD, {**WORD, "start": 3, "uncertain": False}], "tables": [TABLE]},
        # As a service of release 0.1 writes it.
        page("none", number=2),
    ]
    await owner.execute("select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"], rows)
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    detect = await claim(owner, "ai_detect")
    lease = (detect["job_id"], detect["lease_token"])
    first, second = await owner.fetch("select * from chartloom.read_pages_v2($1, $2)", *lease)
    assert [word["uncertain"] for word in first["words"]] == [True, False]
    assert (first["tables"], second["tables"]) == ([TABLE], [])
    first, second = await owner.fetch("select * from chartloom.read_pages($1, $2)", *lease)
    assert [sorted(word) for word in first["words"]] == [["box", "confidence", "end", "start", "text"]] * 2
    assert [word["start"] for word in first["words"]] == [0, 3]
    assert "tables" not in first
