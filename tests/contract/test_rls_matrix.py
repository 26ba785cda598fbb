"""Every table × every role × every verb, from the catalogue: a new table that is not thought of fails here.

Users come as behind PostgREST: a really signed JWT, verified, its role and claims set for one transaction.
"""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec

from shared.auth import TokenRefusedError, TokenVerifier
from shared.database import connect
from tests.conftest import SERVICE_ROLES, Database, Patient
from tests.users import upload

ISSUER = "https://project.supabase.co/auth/v1"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
VERBS = ("select", "insert", "update", "delete")

OF_PATIENTS = {
    "public.user_profiles",
    "public.profile_access",
    "public.shell_files",
    "public.scan_verdicts",
    "public.ocr_pages",
    "public.ai_pass_results",
    "public.ai_checkpoints",
    "public.patient_clinical_events",
    "public.patient_observations",
    "public.patient_interventions",
    "public.clinical_narratives",
    "public.healthcare_timeline_events",
    "public.finding_reviews",
    "public.audit_log",
    "storage.objects",
}
"""Tables that a user with access reads; all others are closed to users."""

SEES = ("owner", "reader", "writer")
USERS = (*SEES, "expired", "revoked", "stranger", "anon")
OTHERS = (*SERVICE_ROLES, "chartloom_operator", "service_role")

ALLOWED: dict[tuple[str, str], set[str]] = {
    # Verbs beyond a user's reading, by (role, table).
    **{
        (role, table): {"select"}
        for role in ("service_role",)
        for table in OF_PATIENTS - {"storage.objects"} | {"public.audit_log"}
    },
    ("service_role", "public.user_profiles"): {"select", "insert", "update"},
    ("service_role", "public.profile_access"): {"select", "insert", "update"},
    ("service_role", "storage.objects"): set(VERBS),
    ("service_role", "storage.buckets"): set(VERBS),
    ("chartloom_operator", "chartloom.processing_errors"): {"select"},
    ("chartloom_operator", "chartloom.job_queue"): {"select"},
    ("chartloom_operator", "chartloom.job_archive"): {"select"},
    ("chartloom_operator", "chartloom.workers"): {"select"},
    ("chartloom_operator", "chartloom.job_types"): {"select"},
    ("chartloom_operator", "chartloom.pipeline_steps"): {"select"},
    ("chartloom_operator", "chartloom.storage_findings"): {"select"},
    ("chartloom_operator", "public.scan_verdicts"): {"select"},
}


def signed(user_id: UUID, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "sub": str(user_id), "role": "authenticated", "aud": "authenticated", "iss": ISSUER,
        "iat": now, "exp": now + 60, **changes,
    }  # fmt: skip
    return jwt.encode(claims, SECRET, algorithm="HS256")


async def fill(owner: asyncpg.Connection, patient: Patient, users: dict[str, UUID]) -> None:
    """A row of this patient in every table that has to do with patients."""
    file = await upload(owner, patient.user_id, patient.profile_id)
    run, event = uuid4(), uuid4()
    for name, level, ends in (
        ("reader", "read", "null, null"),
        ("writer", "write", "null, null"),
        ("expired", "write", "now() - interval '1 second', null"),
        ("revoked", "write", "null, now()"),
    ):
        await owner.execute(
            "insert into profile_access (grantee_user_id, profile_id, access_level, expires_at, revoked_at) "
            f"values ($1, $2, '{level}', {ends})",
            users[name],
            patient.profile_id,
        )
    by = "patient_id, shell_file_id, run_id"
    for statement in (
        f"insert into scan_verdicts ({by}, decision, is_encrypted, findings, antivirus, scanned_at) "
        "values ($1, $2, $3, 'allow', false, '[]', 'not_scanned', now())",
        f"insert into ocr_pages ({by}, page, width, height, text, words, text_source, engine, engine_version) "
        "values ($1, $2, $3, 1, 9, 9, 'x', '[]', 'ocr', 't', '1')",
        f"insert into ai_pass_results ({by}, pass, provider, model, prompt_version, schema_version, result) "
        "values ($1, $2, $3, 'detect', 'p', 'm', '1', '1', '{}')",
        f"insert into ai_checkpoints ({by}, pass, question, attempt, outcome, usage) "
        "values ($1, $2, $3, 'detect', repeat('0', 64), 1, 'truncated', '{}')",
        f"insert into clinical_narratives ({by}, narrative, sentences, provider, model, prompt_version) "
        "values ($1, $2, $3, 'x', '[]', 'p', 'm', '1')",
        f"insert into finding_reviews ({by}, finding_key, reason) "
        "values ($1, $2, $3, gen_random_uuid(), 'quote_not_found')",
        f"insert into healthcare_timeline_events ({by}, id, position, title, event_ids) "
        "values ($1, $2, $3, gen_random_uuid(), 1, 'x', '{}')",
    ):
        await owner.execute(statement, patient.profile_id, file, run)
    await owner.execute(
        f"insert into patient_clinical_events ({by}, id, entity_id, finding_key, kind, label, text, assertion, "
        "subject, attributes, codes, page, char_start, char_end, quote, boxes, alignment, provider, model, "
        "prompt_version, schema_version) values ($1, $2, $3, $4, 'e1', gen_random_uuid(), 'event', 'l', 't', "
        "'affirmed', 'patient', '{}', '[]', 1, 0, 1, 'x', '[]', 'exact', 'p', 'm', '1', '1')",
        patient.profile_id,
        file,
        run,
        event,
    )
    for spoke in ("patient_observations", "patient_interventions"):
        await owner.execute(f"insert into {spoke} (event_id, patient_id) values ($1, $2)", event, patient.profile_id)
    await owner.execute(
        "insert into failed_audit_events (patient_id, action, table_name, row_ids, actor_role, sqlstate) "
        "values ($1, 'read', 'x', '{}', 'x', 'x')",
        patient.profile_id,
    )
    job = await owner.fetchrow("select * from chartloom.claim_jobs('w', array['ocr'], 1)")
    await owner.execute("select * from chartloom.heartbeat_jobs('w', 'ocr', '1', '{}', '{}')")
    await owner.execute("select chartloom.fail_job($1, $2, 'c', 'm', true)", job["job_id"], job["lease_token"])
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    done = await owner.fetchrow("select * from chartloom.claim_jobs('w', array['ocr'], 1)")
    await owner.execute("select chartloom.complete_job($1, $2)", done["job_id"], done["lease_token"])
    await owner.fetch("select * from chartloom.settle_stored_documents(array[$1::uuid], '{}', 3600)", file)
    await owner.execute(
        "insert into storage.objects (bucket_id, name) select 'records', storage_path from shell_files where id = $1",
        file,
    )


async def tables(owner: asyncpg.Connection) -> dict[str, str]:
    """Every table of ours, with its first column."""
    rows = await owner.fetch(
        """
        select n.nspname || '.' || c.relname as name,
            (
                select a.attname from pg_attribute as a
                where a.attrelid = c.oid and a.attnum > 0 and a.attidentity = '' and not a.attisdropped
                order by a.attnum limit 1
            ) as first_column
        from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname in ('public', 'chartloom', 'storage') and c.relkind in ('r', 'p')
        order by 1
        """
    )
    return {row["name"]: row["first_column"] for row in rows}


async def attempt(connection: asyncpg.Connection, verb: str, table: str, column: str) -> str:
    """``denied``, or how many rows were seen or touched. Nothing of it stays."""
    statement = {
        "select": f"select count(*) from {table}",
        "insert": f"with x as (insert into {table} default values returning 1) select count(*) from x",
        "update": f"with x as (update {table} set {column} = {column} returning 1) select count(*) from x",
        "delete": f"with x as (delete from {table} returning 1) select count(*) from x",
    }[verb]
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        return str(await connection.fetchval(statement))
    except asyncpg.InsufficientPrivilegeError:
        return "denied"
    except asyncpg.IntegrityConstraintViolationError:
        return "some"  # it would have been allowed: the row alone was not
    finally:
        await savepoint.rollback()


async def test_the_matrix_has_no_leak(database: Database, owner: asyncpg.Connection, patient: Patient) -> None:
    users = {name: uuid4() for name in ("reader", "writer", "expired", "revoked", "stranger")}
    users["owner"] = patient.user_id
    await fill(owner, patient, users)
    found = await tables(owner)
    filled = {name for name in found if await owner.fetchval(f"select exists (select from {name})")}
    assert filled >= OF_PATIENTS, OF_PATIENTS - filled
    verifier = TokenVerifier(issuer=ISSUER, secret=SECRET)
    problems = []
    for role in (*USERS, *OTHERS):
        # Users come by the owner, who may take their roles, as Supabase's authenticator may; the rest are themselves.
        url = urlsplit(database.admin_url)._replace(path=f"/{database.name}").geturl()
        connection = await (database.connect() if role in users else connect(url, application_name="test"))
        async with connection.transaction():
            if role in users:
                user = await verifier.verify(signed(users[role]))
                await connection.execute(
                    "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
                    json.dumps(user.claims),
                )
            else:
                await connection.execute(f"set local role {role}")
            for table, column in found.items():
                for verb in VERBS:
                    outcome = await attempt(connection, verb, table, column)
                    if outcome != (wanted := expected(role, table, verb)) and not (
                        wanted == "some" and outcome not in ("denied", "0")
                    ):
                        problems.append(f"{role} {verb} {table}: {outcome}, not {wanted}")
        await connection.close()
    assert problems == []


def expected(role: str, table: str, verb: str) -> str:
    if verb in ALLOWED.get((role, table), set()):
        return "some"
    if role in OTHERS or (role == "anon" and not table.startswith("storage.")):
        return "denied"
    if table == "storage.objects":
        # Supabase grants every verb on it; the policies decide. Inserting nothing at all is not a reserved path.
        if verb == "insert":
            return "denied"
        return "some" if role in SEES and verb == "select" else "0"
    if table == "storage.buckets":
        return "denied" if verb == "insert" else "0"
    if table not in OF_PATIENTS:
        return "denied"
    if verb == "select":
        # A grantee, even a former one, sees the grant itself.
        return "some" if role in SEES or (table == "public.profile_access" and role in ("expired", "revoked")) else "0"
    return "denied"


async def test_a_file_goes_only_to_the_path_that_was_reserved_for_it(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    users = {"writer": uuid4(), "reader": uuid4(), "stranger": uuid4(), "owner": patient.user_id}
    for name, level in (("writer", "write"), ("reader", "read")):
        await owner.execute(
            "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, $3)",
            users[name],
            patient.profile_id,
            level,
        )
    await owner.execute(
        "insert into shell_files (patient_id, file_name, size_bytes, sha256, storage_path, traceparent) "
        "values ($1, 'a.pdf', 1, $2, $3, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')",
        patient.profile_id,
        "0" * 64,
        path := f"{patient.profile_id}/{'0' * 64}",
    )
    for name, bucket, place, allowed in (
        ("owner", "records", path, True),
        ("writer", "records", path, True),
        ("reader", "records", path, False),
        ("stranger", "records", path, False),
        ("owner", "records", f"{patient.profile_id}/other", False),
        ("owner", "records", f"../{path}", False),
    ):
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
            json.dumps({"sub": str(users[name]), "role": "authenticated"}),
        )
        insert = owner.execute("insert into storage.objects (bucket_id, name) values ($1, $2)", bucket, place)
        if allowed:
            await insert
        else:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await insert
        await transaction.rollback()


# -- tokens ------------------------------------------------------------------------------------------------------------


def forged(name: str, user_id: UUID) -> str:
    now = int(time.time())
    good = {"sub": str(user_id), "role": "authenticated", "aud": "authenticated", "iss": ISSUER, "exp": now + 60}
    head, body, mark = signed(user_id).split(".")
    return {
        "another secret": jwt.encode(good, "another-secret-of-thirty-two-bytes!!", algorithm="HS256"),
        "no signature": jwt.encode(good, "", algorithm="none"),
        "signature cut": f"{head}.{body}.",
        "body changed": f"{head}.{body[:-4]}AAAA.{mark}",
        "expired": signed(user_id, exp=now - 60),
        "another issuer": signed(user_id, iss="https://evil.example/auth/v1"),
        "another audience": signed(user_id, aud="other"),
        "service role": signed(user_id, role="service_role"),
        "no subject": jwt.encode({k: v for k, v in good.items() if k != "sub"}, SECRET, algorithm="HS256"),
        "subject no uuid": signed(user_id, sub="' or true --"),
        "no end": jwt.encode({k: v for k, v in good.items() if k != "exp"}, SECRET, algorithm="HS256"),
        "not a token": "hello",
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "another secret", "no signature", "signature cut", "body changed", "expired", "another issuer",
        "another audience", "service role", "no subject", "subject no uuid", "no end", "not a token",
    ],
)  # fmt: skip
async def test_a_token_that_is_not_right_is_refused(name: str) -> None:
    verifier = TokenVerifier(issuer=ISSUER, secret=SECRET)
    user_id = uuid4()
    assert (await verifier.verify(signed(user_id))).user_id == user_id
    with pytest.raises(TokenRefusedError) as refused:
        await verifier.verify(forged(name, user_id))
    assert str(user_id) not in str(refused.value)


Jwks = Callable[[], dict[str, Any]]


@pytest.fixture
async def jwks() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The address of a key set, and the set, which a test may change."""
    published: dict[str, Any] = {"keys": [], "asked": 0}

    async def answer(_: web.Request) -> web.Response:
        published["asked"] += 1
        return web.json_response({"keys": published["keys"]})

    app = web.Application()
    app.router.add_get("/jwks.json", answer)
    server = TestServer(app)
    await server.start_server()
    yield str(server.make_url("/jwks.json")), published
    await server.close()


def new_key(key_id: str) -> tuple[ec.EllipticCurvePrivateKey, dict[str, Any]]:
    private = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
    return private, {**public, "kid": key_id, "alg": "ES256", "use": "sig"}


async def test_published_keys_verify_and_a_public_key_is_no_secret(jwks: tuple[str, dict[str, Any]]) -> None:
    url, published = jwks
    private, public = new_key("one")
    published["keys"] = [public]
    verifier = TokenVerifier(issuer=ISSUER, jwks_url=url)
    user_id = uuid4()
    claims = {
        "sub": str(user_id), "role": "authenticated", "aud": "authenticated", "iss": ISSUER,
        "exp": int(time.time()) + 60,
    }  # fmt: skip
    token = jwt.encode(claims, private, algorithm="ES256", headers={"kid": "one"})
    assert (await verifier.verify(token)).user_id == user_id
    assert (await verifier.verify(token)).user_id == user_id
    assert published["asked"] == 1
    stranger, _ = new_key("one")
    with pytest.raises(TokenRefusedError):
        await verifier.verify(jwt.encode(claims, stranger, algorithm="ES256", headers={"kid": "one"}))
    with pytest.raises(TokenRefusedError):
        # Signed with what everybody can read, as if it were a shared secret.
        await verifier.verify(jwt.encode(claims, public["x"] * 2, algorithm="HS256", headers={"kid": "one"}))
    for _ in range(5):
        with pytest.raises(TokenRefusedError):
            await verifier.verify(jwt.encode(claims, stranger, algorithm="ES256", headers={"kid": "unknown"}))
    assert published["asked"] == 1
