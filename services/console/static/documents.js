// Uploading, and the live list: the server sends the row of a document whenever it has moved.

const drop = document.getElementById("drop");
const list = document.getElementById("documents");
const uploads = document.getElementById("uploads");
const told = document.getElementById("told");
const csrf = document.querySelector("meta[name=csrf]").content;

// -- the live list ------------------------------------------------------------------------------------------------------

function put(id, html) {
  const known = document.getElementById(`document-${id}`);
  if (!html) {
    known?.remove();
  } else {
    const made = document.createElement("template");
    made.innerHTML = html;
    const row = made.content.firstElementChild;
    if (known) {
      if (known.dataset.status !== row.dataset.status) {
        told.textContent = `${row.querySelector("h3").textContent}: ${row.querySelector(".tag").textContent}`;
      }
      // Whoever has tabbed to a link in the row stays on it.
      const inside = known.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      known.replaceWith(row);
      if (inside) row.querySelector(`a[href="${inside}"]`)?.focus();
    } else {
      list.prepend(row);
    }
  }
  document.getElementById("none").hidden = list.children.length > 0;
}

// Only while somebody looks: a browser has six connections to a host, for all of its tabs. What was missed comes after.
let since = list.dataset.since;
let events = null;
function listen() {
  if (document.hidden) {
    events?.close();
    events = null;
    return;
  }
  if (events) return;
  events = new EventSource(`${list.dataset.events}?since=${since}`);
  events.addEventListener("position", (event) => { since = event.data; });
  events.addEventListener("document", (event) => {
    const end = event.data.indexOf("\n");
    put(end < 0 ? event.data : event.data.slice(0, end), end < 0 ? "" : event.data.slice(end + 1));
  });
  // The browser itself tries again after a cut, and says where it left off; it gives up only where the server refuses.
  events.addEventListener("error", () => {
    if (events?.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
  });
}
document.addEventListener("visibilitychange", listen);

// -- uploading ----------------------------------------------------------------------------------------------------------

const PART_BYTES = 4 << 20;
const LONGEST_PAUSE_MS = 15_000;
// A line that is down for longer than some two minutes: somebody says when to go on.
const TRIES = 12;
const PASSING = [0, 502, 503, 504];

// One part; what it came to, or status 0 where the line was cut.
function post(file, name, offset, onProgress) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open("POST", drop.dataset.to);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.setRequestHeader("X-Upload", name);
    request.setRequestHeader("X-Upload-Offset", offset);
    request.setRequestHeader("X-Upload-Size", file.size);
    request.upload.addEventListener("progress", (event) => onProgress(offset + event.loaded));
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* a proxy's page */ }
      done({ status: request.status, ...answer });
    });
    request.addEventListener("error", () => done({ status: 0 }));
    request.send(file.slice(offset, offset + PART_BYTES));
  });
}

// Until the network is there again, or so long.
function pause(milliseconds) {
  return new Promise((done) => {
    const timer = setTimeout(go, milliseconds);
    addEventListener("online", go);
    function go() {
      clearTimeout(timer);
      removeEventListener("online", go);
      done();
    }
  });
}

// Part after part. After a cut the server says how much of the file it has, and the rest follows.
async function transfer(file, name, { onProgress, onCut }) {
  let offset = 0;
  let cuts = 0;
  for (;;) {
    const answer = await post(file, name, offset, onProgress);
    if (answer.offset !== undefined && cuts < TRIES) {
      cuts = answer.offset > offset ? 0 : cuts + 1;
      offset = answer.offset;
    } else if (PASSING.includes(answer.status) && cuts < TRIES) {
      cuts += 1;
      onCut();
      await pause(Math.min(500 * 2 ** cuts, LONGEST_PAUSE_MS));
    } else {
      return answer;
    }
  }
}

async function send(file, name) {
  const row = document.createElement("li");
  row.className = "upload";
  const title = document.createElement("strong");
  title.textContent = file.name;
  const state = document.createElement("span");
  state.textContent = "sending";
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", `Sending ${file.name}`);
  row.append(title, state, bar);
  uploads.append(row);

  function fail(message, again) {
    bar.remove();
    state.remove();
    const problem = document.createElement("p");
    problem.className = "alert";
    problem.setAttribute("role", "alert");
    problem.textContent = message;
    row.append(problem);
    const buttons = document.createElement("div");
    buttons.className = "buttons";
    const retry = document.createElement("button");
    retry.textContent = "Try again";
    retry.addEventListener("click", () => { row.remove(); queue(file, name); });
    const forget = document.createElement("button");
    forget.className = "quiet";
    forget.textContent = "Leave it";
    forget.addEventListener("click", () => row.remove());
    buttons.append(...(again ? [retry, forget] : [forget]));
    row.append(buttons);
  }

  if (file.size > drop.dataset.most * 1e6) {
    fail(`The file is larger than ${drop.dataset.most} MB: send it in parts.`, false);
    return;
  }
  const answer = await transfer(file, name, {
    onProgress: (sent) => { state.textContent = "sending"; bar.value = sent / (file.size || 1); },
    onCut: () => { state.textContent = "the connection was cut; it goes on by itself"; },
  });
  if (answer.status === 0) {
    fail("The connection was cut. What was sent is kept for an hour: try again to go on.", true);
  } else if (answer.status !== 200) {
    fail(answer.problem ?? "It was not taken. Load the page again, then try again.", answer.status >= 429);
  } else if (answer.known) {
    bar.remove();
    state.textContent = "is here already";
  } else {
    row.remove();
    told.textContent = `${file.name} was sent`;
  }
}

// Three at a time: a phone's network has no more to give.
const waiting = [];
let sending = 0;
function queue(file, name = crypto.randomUUID()) {
  waiting.push([file, name]);
  go();
}
async function go() {
  if (sending >= 3 || !waiting.length) return;
  sending += 1;
  await send(...waiting.shift());
  sending -= 1;
  go();
}

if (drop) {
  for (const input of drop.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      for (const file of input.files) queue(file);
      input.value = "";
    });
    drop.querySelector(`[data-opens=${input.id}]`).addEventListener("click", () => input.click());
  }
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    for (const file of event.dataTransfer.files) queue(file);
  });
}
listen();
