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

function send(file) {
  const row = document.createElement("li");
  row.className = "upload";
  const name = document.createElement("strong");
  name.textContent = file.name;
  const state = document.createElement("span");
  state.textContent = "sending";
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", `Sending ${file.name}`);
  row.append(name, state, bar);
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
    retry.addEventListener("click", () => { row.remove(); queue(file); });
    const forget = document.createElement("button");
    forget.className = "quiet";
    forget.textContent = "Leave it";
    forget.addEventListener("click", () => row.remove());
    buttons.append(...(again ? [retry, forget] : [forget]));
    row.append(buttons);
  }

  return new Promise((done) => {
    if (file.size > drop.dataset.most * 1e6) {
      fail(`The file is larger than ${drop.dataset.most} MB: send it in parts.`, false);
      return done();
    }
    const request = new XMLHttpRequest();
    request.open("POST", drop.dataset.to);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.upload.addEventListener("progress", (event) => { bar.value = event.loaded / (event.total || 1); });
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* a proxy's page */ }
      if (request.status !== 200) {
        fail(answer.problem ?? "It was not taken. Load the page again, then try again.", request.status >= 429);
      } else if (answer.known) {
        bar.remove();
        state.textContent = "is here already";
      } else {
        row.remove();
        told.textContent = `${file.name} was sent`;
      }
      done();
    });
    request.addEventListener("error", () => { fail("The connection was cut. What was sent before is safe.", true); done(); });
    request.send(file);
  });
}

// Three at a time: a phone's network has no more to give.
const waiting = [];
let sending = 0;
function queue(file) {
  waiting.push(file);
  go();
}
async function go() {
  if (sending >= 3 || !waiting.length) return;
  sending += 1;
  await send(waiting.shift());
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
