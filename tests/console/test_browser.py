"""The console as a person uses it, in a real Chromium, from an empty database: in this order."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import REPOSITORY
from tests.console.conftest import AXE, DESKTOP, OUT, PHONE, SETTLE_MS, Stack, sync_api, user_id
from tests.hostile.pdf_writer import one_page, stream

expect = sync_api.expect
expect.set_options(timeout=SETTLE_MS)

SAMPLES = ("discharge-letter.pdf", "clinic-letter-scan.pdf", "lab-report-photo.jpg")
UNREADABLE = {"name": "not-a-record.bin", "mimeType": "application/octet-stream", "buffer": b"\x00\x01\x02" * 100}
STARTS_A_PROGRAM = {
    "name": "from-a-stranger.pdf",
    "mimeType": "application/pdf",
    "buffer": one_page(catalog=b"/OpenAction << /S /Launch /F (a) >>"),
}
PART_BYTES = 4 << 20
LARGE = {
    "name": "large.pdf",
    "mimeType": "application/pdf",
    "buffer": one_page(objects={10: stream(random.Random(8).randbytes(9 << 20))}),
}
STRAY = {"name": "stray.txt", "mimeType": "text/plain", "buffer": b"Patient: Ann Lee Baker\nGout since 2019."}
COMPLETE_MS = 150_000


@pytest.fixture(scope="session")
def record(stack: Stack, local_user: Any) -> str:
    """A new record with the three samples, which were watched until they were done; one is its person's."""
    page = local_user
    page.goto("/")
    expect(page.get_by_role("heading", name="Records")).to_be_visible()
    page.get_by_label("Name").fill("Margaret Ashdown")
    page.get_by_label("Date of birth").fill("1951-03-14")
    page.get_by_role("button", name="Make the record").click()
    expect(page.get_by_role("heading", name="Margaret Ashdown")).to_be_visible()
    page.evaluate("window.loadedOnce = true")
    page.locator("#files").set_input_files([REPOSITORY / "samples" / name for name in SAMPLES])
    rows = page.locator(".document")
    expect(rows).to_have_count(len(SAMPLES), timeout=COMPLETE_MS)
    # A stage was seen at work: it came by the stream, since nobody loads the page again.
    expect(page.locator(".stage.working, .stage.good").first).to_be_visible(timeout=COMPLETE_MS)
    expect(page.locator('.document[data-status="completed"]')).to_have_count(len(SAMPLES), timeout=COMPLETE_MS)
    assert page.evaluate("window.loadedOnce")
    return page.url.removesuffix("/documents")


@pytest.fixture(scope="session")
def whole_record(local_user: Any, record: str) -> str:
    """The record when a person has said, by keyboard, that the two that name somebody else are this person's, too."""
    page = local_user
    page.goto(record)
    expect(page.get_by_text("2 documents may be somebody else’s")).to_be_visible()
    assert sources_of(page) == {SAMPLES[0]}
    page.get_by_role("link", name="say whose").click()
    undecided = page.locator(".review", has=page.get_by_role("button", name="This person’s"))
    expect(undecided).to_have_count(2)
    expect(undecided.filter(has_text=SAMPLES[1])).to_contain_text("Tobias Reyes")
    expect(undecided.filter(has_text=SAMPLES[2])).to_contain_text("5 December 1989")
    page.keyboard.press("j")
    for left in (1, 0):
        page.keyboard.press("a")
        expect(undecided).to_have_count(left)
        # The next one is at hand.
        expect(page.locator(".review").first).to_be_focused()
    page.goto(record)
    expect(page.get_by_text("may be somebody else’s")).to_have_count(0)
    assert sources_of(page) == set(SAMPLES)
    return record


def sources_of(page: Any) -> set[str]:
    """The documents that the timeline tells of."""
    return {text.split(",")[0] for text in page.locator(".entry-source").all_inner_texts()}


@pytest.fixture(scope="session")
def waiting(stack: Stack, whole_record: str) -> list[UUID]:
    """Three findings of the record that wait for a person, before all that OCR doubts; returns their keys."""
    rows = stack.query(
        "insert into finding_reviews (finding_key, patient_id, shell_file_id, run_id, reason, created_at) "
        "select finding_key, patient_id, shell_file_id, run_id, 'words_differ', now() - interval '1 hour' "
        "from patient_clinical_events as e where patient_id = $1 and kind = 'observation' and attributes ? 'value' "
        "and attributes ? 'unit' and superseded_at is null and attributes #>> '{value,text}' <> '4.2' "
        "and not exists (select from finding_reviews as r where r.finding_key = e.finding_key) "
        "order by id limit 3 returning finding_key",
        UUID(whole_record.rsplit("/", 1)[1]),
    )
    return [row["finding_key"] for row in rows]


@pytest.fixture(scope="session")
def dead_letter(stack: Stack, local_user: Any, record: str) -> int:
    """The job of a file that nobody can read."""
    page = local_user
    page.goto(f"{record}/documents")
    page.locator("#files").set_input_files([UNREADABLE])
    failed = page.locator('.document[data-status="failed"]')
    expect(failed.locator(".alert")).to_contain_text("Upload a PDF", timeout=COMPLETE_MS)
    (row,) = stack.query(
        "select id from chartloom.job_history where status = 'dead_letter' and error ->> 'code' = 'file_type_unknown'"
    )
    return row["id"]


@pytest.fixture(scope="session")
def quarantined(local_user: Any, record: str) -> UUID:
    """A document that would start a program, were it opened."""
    page = local_user
    page.goto(f"{record}/documents")
    page.locator("#files").set_input_files([STARTS_A_PROGRAM])
    row = page.locator('.document[data-status="quarantined"]')
    expect(row.locator(".alert")).to_contain_text("a command that starts a program", timeout=COMPLETE_MS)
    return document_of(row)


@pytest.fixture(scope="session")
def stray(local_user: Any, whole_record: str) -> UUID:
    """A document of somebody else's, on which nobody has decided yet."""
    page = local_user
    page.goto(f"{whole_record}/documents")
    page.locator("#files").set_input_files([STRAY])
    row = page.locator(".document", has_text=STRAY["name"])
    expect(row).to_contain_text("nothing of it counts", timeout=COMPLETE_MS)
    return document_of(row)


def document_of(row: Any) -> UUID:
    return UUID(row.get_attribute("id").removeprefix("document-"))


def test_the_samples_complete_before_ones_eyes(local_user: Any, record: str) -> None:
    page = local_user
    page.goto(record)
    expect(page.locator(".entry").first).to_be_visible()
    every = page.locator(".entry:visible").count()
    page.get_by_role("button", name="Results").click()
    assert 0 < page.locator(".entry:visible").count() < every
    page.get_by_role("button", name="Everything").click()
    page.get_by_label("Search the timeline").fill("apixaban")
    expect(page.locator(".entry:visible").first).to_contain_text(re.compile("apixaban", re.IGNORECASE))
    assert "apixaban" not in page.url
    assert "Ashdown" not in page.title()


def test_an_upload_goes_on_where_the_line_was_cut(local_user: Any, record: str) -> None:
    page = local_user
    page.goto(f"{record}/documents")
    offsets: list[int] = []

    def cut_the_second(route: Any) -> None:
        offsets.append(int(route.request.headers["x-upload-offset"]))
        if len(offsets) == 2:
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route(f"{record}/documents", cut_the_second)
    page.locator("#files").set_input_files([LARGE])
    expect(page.locator(".document", has_text=LARGE["name"])).to_be_visible(timeout=COMPLETE_MS)
    page.unroute(f"{record}/documents")
    assert offsets == [0, PART_BYTES, PART_BYTES, 2 * PART_BYTES]


def test_what_names_somebody_else_counts_when_a_person_says_so_and_only_as_long(
    stack: Stack, local_user: Any, whole_record: str, stray: UUID
) -> None:
    page = local_user
    page.goto(f"/documents/{stray}/pages/1")
    # What it says can be seen, to decide by.
    expect(page.locator(".fact", has_text="Gout")).to_be_visible()
    for button, said, entries in (
        ("This person’s", "though it says otherwise", 1),
        ("Somebody else’s", "nothing of it counts", 0),
    ):
        page.get_by_role("button", name=button).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text(said)).to_be_visible()
        page.goto(whole_record)
        expect(page.locator(".entry", has_text="Gout")).to_have_count(entries)
        page.goto(f"/documents/{stray}/pages/1")
    # As it was, for the pages to come.
    stack.query(
        "update finding_reviews set status = 'waiting', decided_by = null, decided_at = null where shell_file_id = $1",
        stray,
    )


def test_a_file_in_quarantine_says_why_and_has_no_page(local_user: Any, quarantined: UUID) -> None:
    page = local_user
    page.goto(f"/documents/{quarantined}")
    expect(page.locator(".alert")).to_contain_text("Print it to a new PDF")
    expect(page.locator(".file-verdict")).to_contain_text("a command that starts a program")
    assert page.request.get(f"/documents/{quarantined}/pages/1/image").status == 404


def test_a_fact_opens_its_source_with_its_box_over_the_right_words(
    stack: Stack, local_user: Any, whole_record: str
) -> None:
    page = local_user
    for name in SAMPLES:
        (document,) = stack.query("select id from shell_files where file_name = $1", name)
        facts = stack.query(
            "select id, quote, page, char_start, char_end from patient_clinical_events "
            "where shell_file_id = $1 and superseded_at is null and page = 1 order by char_start limit 6",
            document["id"],
        )
        assert facts
        (ocr,) = stack.query(
            "select words, width, height from ocr_pages where shell_file_id = $1 and page = 1", document["id"]
        )
        for fact in facts:
            page.goto(f"/documents/{document['id']}/pages/1#fact-{fact['id']}")
            expect(page.locator(f"#fact-{fact['id']}")).to_be_focused()
            expect(page.locator(".mark.active")).to_have_attribute("data-fact", str(fact["id"]))
            words = [
                word for word in ocr["words"] if word["start"] < fact["char_end"] and word["end"] > fact["char_start"]
            ]
            assert " ".join(word["text"] for word in words).split()[0].strip(".,;:()") in fact["quote"]
            # In one look: the page may still be scrolling.
            (left, top, right, _), *shown = page.evaluate(
                """() => [...document.querySelectorAll("#sheet, .mark.active .words rect")]
                    .map((one) => one.getBoundingClientRect()).map((b) => [b.x, b.y, b.right, b.bottom])"""
            )
            scale = (right - left) / ocr["width"]
            for word in words:
                x0, y0, x1, y1 = (
                    edge * scale + offset for edge, offset in zip(word["box"], [left, top] * 2, strict=True)
                )
                assert any(
                    box[0] <= x0 + 2 and box[1] <= y0 + 2 and box[2] >= x1 - 2 and box[3] >= y1 - 2 for box in shown
                ), (fact["quote"], word)


def test_words_and_facts_show_each_other(stack: Stack, local_user: Any, whole_record: str) -> None:
    page = local_user
    (document,) = stack.query("select id from shell_files where file_name = $1", SAMPLES[0])
    page.goto(f"/documents/{document['id']}/pages/1")
    mark = page.locator(".mark").nth(2)
    wanted = mark.get_attribute("data-fact")
    mark.locator(".words rect").first.hover()
    expect(page.locator(f"#fact-{wanted}")).to_have_class(re.compile("hovered"))
    expect(page.locator("#hint")).to_contain_text("confidence")
    mark.locator(".words rect").first.click()
    expect(page.locator(f"#fact-{wanted}")).to_have_class(re.compile("active"))
    before = page.locator("#sheet").bounding_box()["width"]
    for key in ("+", "+"):
        page.keyboard.press(key)
    assert page.locator("#sheet").bounding_box()["width"] > before * 1.5
    page.keyboard.press("0")
    page.keyboard.press("j")
    expect(page.locator(".fact.active")).not_to_have_attribute("data-fact", wanted)
    page.keyboard.press("k")
    expect(page.locator(".fact.active")).to_have_attribute("data-fact", wanted)


def test_findings_are_accepted_corrected_and_dismissed_by_keyboard(
    stack: Stack, local_user: Any, whole_record: str, waiting: list[UUID]
) -> None:
    page = local_user
    page.goto(f"{whole_record}/review")
    # Not the documents that may be somebody else's, which come first.
    cards = page.locator(".review", has=page.get_by_role("button", name="Correct"))
    expect(cards.nth(2)).to_be_visible()
    others = cards.count() - len(waiting)
    while not cards.first.evaluate("one => one === document.activeElement"):
        page.keyboard.press("j")
    first = UUID(page.evaluate("document.activeElement.id").removeprefix("review-"))
    page.keyboard.press("a")
    expect(cards).to_have_count(others + 2)
    expect(cards.first).to_be_focused()
    second = UUID(page.evaluate("document.activeElement.id").removeprefix("review-"))
    page.keyboard.press("c")
    expect(page.locator(f"#review-{second} input[name=text]")).to_be_focused()
    value = page.locator(f"#review-{second} input[name=value]")
    while not value.evaluate("one => one === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type("4.2")
    page.keyboard.press("Enter")
    expect(cards).to_have_count(others + 1)
    expect(cards.first).to_be_focused()
    third = UUID(page.evaluate("document.activeElement.id").removeprefix("review-"))
    page.keyboard.press("x")
    expect(cards).to_have_count(others)
    decided = stack.query(
        "select finding_key, status, decided_by, correction from finding_reviews where finding_key = any($1)", waiting
    )
    assert {row["finding_key"]: row["status"] for row in decided} == {
        first: "accepted", second: "corrected", third: "dismissed",
    }  # fmt: skip
    (corrected,) = [row for row in decided if row["status"] == "corrected"]
    assert corrected["correction"]["attributes"] == {"value": {"text": "4.2", "normalised": 4.2}}
    audited = stack.query(
        "select action from audit_log where table_name = 'finding_reviews' and actor_user_id is not null"
    )
    assert len(audited) >= 3


def test_a_dead_letter_is_redriven(stack: Stack, local_user: Any, dead_letter: int) -> None:
    page = local_user
    page.goto("/operations")
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_label(f"Job {dead_letter}").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Dry run", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("1 job would run again")
    assert stack.query("select count(*) as n from chartloom.processing_errors where job_id = $1", dead_letter) == [
        {"n": 1}
    ]
    page.get_by_role("button", name="Run the chosen again").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("1 job is queued again")
    # It ran, and ended as before: the history has both attempts.
    page.goto(f"/operations/jobs/{dead_letter}")
    for _ in range(100):
        if page.locator("section").first.locator("tbody tr").count() == 2:
            break
        page.wait_for_timeout(100)
        page.reload()
    expect(page.locator("section").first.locator("tbody tr")).to_have_count(2)


def test_a_second_users_browser_sees_nothing_of_the_firsts(
    stack: Stack, local_user: Any, record: str, dead_letter: int, sign_in: Callable[[str], Any]
) -> None:
    theirs = sign_in("somebody@else.example")
    theirs.get_by_label("Name").fill("Somebody Else")
    theirs.get_by_role("button", name="Make the record").click()
    path = "/records/" + record.rsplit("/", 1)[1]
    (document,) = stack.query("select id from shell_files where file_name = $1", SAMPLES[0])
    place = f"/documents/{document['id']}"
    addresses = [
        path, f"{path}/results", f"{path}/documents", f"{path}/review", f"{path}/events",
        place, f"{place}/pages/1", f"{place}/pages/1/image", f"{place}/way",
        f"/documents/{uuid4()}", f"/records/{uuid4()}", f"/documents/{uuid4()}/pages/1/image",
        "/operations", "/operations/dead-letters", f"/operations/jobs/{dead_letter}",
    ]  # fmt: skip
    statuses = theirs.evaluate(
        "(all) => Promise.all(all.map(async (one) => [one, (await fetch(one)).status]))", addresses
    )
    assert {status for _, status in statuses} == {404}, statuses
    # And on the stream of their own record, nothing of what moves in the first one's.
    heard = theirs.evaluate(
        """() => new Promise((done) => {
            window.heard = [];
            const list = document.getElementById("documents");
            const events = new EventSource(list.dataset.events);
            events.addEventListener("document", (event) => window.heard.push(event.data));
            events.addEventListener("open", () => done(window.heard));
        })"""
    )
    assert heard == []
    local_user.goto(f"{record}/documents")
    local_user.locator("#files").set_input_files(
        [{"name": "a.txt", "mimeType": "text/plain", "buffer": b"Gout since 2019."}]
    )
    expect(local_user.locator('.document[data-status="completed"]').first).to_contain_text("a.txt", timeout=COMPLETE_MS)
    theirs.locator("#files").set_input_files([{"name": "b.txt", "mimeType": "text/plain", "buffer": b"Asthma."}])
    theirs.evaluate(
        """() => new Promise((done) => {
            const look = () => window.heard.length ? done() : setTimeout(look, 20);
            look();
        })"""
    )
    assert all("b.txt" in data for data in theirs.evaluate("window.heard"))
    assert stack.query("select owner_user_id from user_profiles where display_name = 'Somebody Else'") == [
        {"owner_user_id": user_id("somebody@else.example")}
    ]


# -- every page: how it looks, and to whom it is open ------------------------------------------------------------------


@pytest.fixture(scope="session")
def addresses(
    stack: Stack, whole_record: str, dead_letter: int, quarantined: UUID, stray: UUID, waiting: list[UUID]
) -> dict[str, str]:
    record = whole_record
    stack.query(
        "update finding_reviews set status = 'waiting', decided_by = null, decided_at = null, correction = null "
        "where finding_key = any($1) and status in ('accepted', 'dismissed')",
        waiting,
    )
    documents = {row["file_name"]: row["id"] for row in stack.query("select id, file_name from shell_files")}
    letter, photo = documents[SAMPLES[0]], documents[SAMPLES[2]]
    (fact,) = stack.query(
        "select id from patient_clinical_events where shell_file_id = $1 and page = 1 and superseded_at is null "
        "and kind = 'intervention' order by char_start limit 1",
        letter,
    )
    return {
        "records": "/",
        "timeline": record,
        "results": f"{record}/results",
        "documents": f"{record}/documents",
        "review": f"{record}/review",
        "source": f"/documents/{letter}/pages/1#fact-{fact['id']}",
        "source-photo": f"/documents/{photo}/pages/1",
        "source-stray": f"/documents/{stray}/pages/1",
        "way": f"/documents/{letter}/way",
        "way-quarantined": f"/documents/{quarantined}/way",
        "operations": "/operations",
        "dead-letters": "/operations/dead-letters",
        "job": f"/operations/jobs/{dead_letter}",
        "not-found": f"/documents/{uuid4()}",
    }


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["desktop", "phone"])
def screen(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def viewer(stack: Stack, chromium: Any, local_user: Any, scheme: str, screen: str) -> Iterator[Any]:
    context = chromium.new_context(
        viewport=PHONE if screen == "phone" else DESKTOP, color_scheme=scheme, has_touch=screen == "phone",
        base_url=stack.base, storage_state=local_user.context.storage_state(), reduced_motion="reduce",
    )  # fmt: skip
    context.set_default_timeout(SETTLE_MS)
    yield context.new_page()
    context.close()


def test_no_page_is_closed_to_anybody_and_none_overflows(
    stack: Stack, viewer: Any, addresses: dict[str, str], scheme: str, screen: str
) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: make test-console does")
    OUT.mkdir(exist_ok=True)
    problems = []
    refused: list[str] = []
    viewer.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
    for name, address in {**addresses, "sign-in": f"{stack.public}/sign-in"}.items():
        viewer.goto(address)
        if name == "review" and viewer.locator(".correct").count():
            viewer.locator(".correct").first.click()
        viewer.screenshot(
            path=OUT / f"{name}-{screen}-{scheme}.png", full_page=screen == "desktop" and name != "source"
        )
        # Colours are the same on every screen, and the layout is the same in every colour.
        if (screen == "desktop") == (scheme == "light"):
            problems += [f"{name}: {violation}" for violation in axe_violations(viewer)]
        width = viewer.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        if width[0] > width[1]:
            problems.append(f"{name}: {width[0]} wide on a screen of {width[1]}")
    assert problems == []
    assert refused == []


def axe_violations(page: Any) -> list[str]:
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']} {node['html'][:160]} {node['failureSummary'][:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def test_every_page_can_be_used_by_keyboard_alone(local_user: Any, addresses: dict[str, str]) -> None:
    """Whatever takes a click is reached by Tab, in the order of the page, and shows where one is."""
    page = local_user
    for name in ("records", "timeline", "documents", "source", "review", "dead-letters"):
        page.goto("about:blank")
        page.goto(addresses[name])
        page.evaluate(
            """() => { document.activeElement.blur();
            const all = document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']");
            window.wanted = new Set([...all].filter(
                (one) => one.checkVisibility() && one.tabIndex >= 0 && !one.disabled && one.type !== "hidden"));
            addEventListener("focusin", (event) => window.wanted.delete(event.target)); }"""
        )
        # A finding that is reached shows its buttons, which are reached next.
        for _ in range(8 * page.evaluate("window.wanted.size") // 20 + 2):
            for _ in range(20):
                page.keyboard.press("Tab")
            if not page.evaluate("window.wanted.size"):
                break
        assert page.evaluate("[...window.wanted].map((one) => one.outerHTML)") == [], name


def test_the_first_page_is_small_and_soon_there(stack: Stack, chromium: Any, record: str) -> None:
    context = chromium.new_context(viewport=DESKTOP, base_url=stack.base)
    context.set_default_timeout(SETTLE_MS)
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda response: sizes.append(len(response.body())) if response.status == 200 else None)
    page.goto(stack.address)
    expect(page.get_by_role("heading", name="Records")).to_be_visible()
    page.wait_for_load_state("networkidle")
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive")
    print(f"first page: {sum(sizes) / 1000:.1f} kB in {len(sizes)} answers, interactive in {timing:.0f} ms")
    assert sum(sizes) < 100_000
    assert timing < 1000
    context.close()
