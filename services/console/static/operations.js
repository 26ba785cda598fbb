// The overview is read anew every few seconds, but not under the hands of somebody who uses it.

const live = document.getElementById("live");
async function renew() {
  if (!document.hidden && !live.contains(document.activeElement)) {
    const answer = await fetch(location.href).catch(() => null);
    if (answer?.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      live.replaceChildren(...page.getElementById("live").childNodes);
    }
  }
  setTimeout(renew, live.dataset.every * 1000);
}
setTimeout(renew, live.dataset.every * 1000);
