// The page stays true while it is looked at: when something happens, and now and then, the node renders it anew and what is
// shown is replaced, but for what a person may be at. Without this, the page is the same, and is loaded again by hand.
"use strict";

const EVERY_MS = 15000;
const AFTER_EVENT_MS = 300;
const problem = document.getElementById("problem");
let soon = 0;
let busy = false;

async function refresh() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelectorAll(".fresh");
    if (!answer.ok) return;
    document.querySelectorAll(".fresh").forEach((old, index) => { if (fresh[index]) old.replaceWith(fresh[index]); });
    dispatchEvent(new Event("fresh"));
  } catch {
    problem.textContent = "The node does not answer.";
  } finally {
    busy = false;
  }
}

function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(refresh, AFTER_EVENT_MS);
}

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  try {
    const answer = await fetch(event.target.action, { method: "POST", headers: { accept: "application/json" } });
    if (!answer.ok) problem.textContent = (await answer.json()).error;
  } catch {
    problem.textContent = "The node does not answer.";
  }
  refreshSoon();
});

const events = new EventSource("/v1/events");
for (const kind of ["guest", "ready", "task", "lost"]) events.addEventListener(kind, refreshSoon);
events.addEventListener("open", () => { problem.textContent = ""; });
events.addEventListener("error", () => { problem.textContent = "The node does not answer."; });
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, EVERY_MS);
