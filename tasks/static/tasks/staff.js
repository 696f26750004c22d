"use strict";
// What the staff pages do besides showing: every page works without it.

const POLL_EVERY = 5000; // milliseconds

// A button that was pressed cannot be pressed again; the page that comes back is fresh.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  form.dataset.sent = "yes";
  setTimeout(() => form.querySelectorAll("button").forEach((button) => (button.disabled = true)), 0);
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) window.location.reload();
});

// The skin shows the page late, after the browser has looked where the keyboard belongs.
window.addEventListener("load", () => document.querySelector(".sp [autofocus]")?.focus());

// Leaving a form that was changed and not sent asks first.
document.querySelectorAll("form[data-guard]").forEach((form) => {
  form.addEventListener("input", () => (form.dataset.changed = "yes"));
});
window.addEventListener("beforeunload", (event) => {
  const lost = document.querySelector("form[data-changed]:not([data-sent])");
  if (lost) event.preventDefault();
});

// A run's page refreshes its parts until the run is over; not while it is hidden or being used.
const story = document.querySelector("[data-poll]");
let failures = 0;

function replaceParts(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  fresh.querySelectorAll("[data-part]").forEach((part) => {
    const old = story.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!old || old.contains(document.activeElement)) return;
    old.querySelectorAll("details[open][data-key]").forEach((open) => {
      const same = part.querySelector(`details[data-key="${open.dataset.key}"]`);
      if (same) same.open = true;
    });
    if (old.innerHTML !== part.innerHTML) old.replaceWith(part);
  });
  return fresh.querySelector("[data-polls]")?.dataset.polls === "yes";
}

async function poll() {
  let again = true;
  if (!document.hidden) {
    try {
      const answer = await fetch(story.dataset.poll, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) throw new Error(String(answer.status));
      again = replaceParts(await answer.text());
      failures = 0;
    } catch {
      failures += 1;
    }
    document.querySelector("[data-poll-note]").hidden = failures < 3;
  }
  if (again) setTimeout(poll, POLL_EVERY);
}

if (story) setTimeout(poll, POLL_EVERY);
