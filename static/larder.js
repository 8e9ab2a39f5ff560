// Warns before an edited form is left, ticks all rows at once, narrows long lists of choices, and shows what the caches
// decide. Every page works without it, but for what is live.
"use strict";

for (const form of document.querySelectorAll("form[data-warn]")) {
  // "changed": the server sent the form back, so what it shows is not saved.
  const unsaved = form.dataset.warn === "changed";
  const entries = () => JSON.stringify([...new FormData(form)]);
  const original = entries();
  const warn = (event) => {
    if (unsaved || entries() !== original) event.preventDefault();
  };
  // The listener exists only once something was edited, or the browser could
  // not keep the page for its back button.
  const arm = () => addEventListener("beforeunload", warn);

  if (unsaved) arm();
  form.addEventListener("input", arm);
  form.addEventListener("submit", () => removeEventListener("beforeunload", warn));
  addEventListener("pageshow", (event) => {
    if (event.persisted && entries() !== original) arm();
  });
}

for (const form of document.querySelectorAll("form[data-ticks]")) {
  const rows = [...form.querySelectorAll("input[name=pk]")];
  const head = form.querySelector("th.tick");
  if (!rows.length || !head) continue;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Tick all on this page");
  head.replaceChildren(all);
  all.addEventListener("change", () => rows.forEach((row) => { row.checked = all.checked; }));
}

for (const narrow of document.querySelectorAll("[data-narrow]")) {
  narrow.hidden = false;
  const field = narrow.parentElement;
  const ticks = [...field.querySelectorAll(".options label")];
  const select = field.querySelector("select");
  const choices = [...(select?.options ?? [])];
  const input = narrow.querySelector("input");
  // What is chosen stays to be seen. Browsers do not all hide the options of a select, so these are taken out.
  const fits = (choice, word) => choice.textContent.toLowerCase().includes(word);
  input.addEventListener("input", () => {
    const word = input.value.trim().toLowerCase();
    for (const tick of ticks) tick.hidden = !fits(tick, word);
    select?.replaceChildren(...choices.filter((choice) => choice.selected || choice.value === "" || fits(choice, word)));
  });
  // Not the whole form is sent.
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
  });
}

// The live view: lines as the server sends them. It connects when it can be seen, and after a page was left and another
// one came, as when a form is saved, it goes on where it was.
const LIVE = { key: "larder-live", lines: 500, resumesFor: 60_000, leaves: 30_000 };

function live(view) {
  const list = view.querySelector("[data-lines]");
  const status = view.querySelector("[data-status]");
  const counted = view.querySelector("[data-count]");
  const filters = view.querySelector(".live-filters");
  const pause = view.querySelector("[data-pause]");
  let waiting = [];
  let dropped = 0;
  let source;
  // The line that was read last.
  let read;

  const isPaused = () => pause.getAttribute("aria-pressed") === "true";
  const has = (text, word) => !word || (text ?? "").toLowerCase().includes(word.trim().toLowerCase());
  const wanted = (item) => {
    const { alias, outcome, text, cause } = Object.fromEntries(new FormData(filters));
    return (!alias || item.dataset.alias === alias) && (!outcome || item.dataset.outcome === outcome)
      && has(item.textContent, text) && has(item.dataset.cause, cause);
  };
  const count = () => {
    const shown = [...list.children].filter((item) => !item.hidden).length;
    const lost = dropped ? `, ${dropped} more were too many to keep` : "";
    counted.textContent = isPaused() ? `Paused; ${waiting.length} lines wait${lost}`
      : list.children.length ? `${shown} of ${list.children.length} lines` : "Nothing happened yet.";
  };
  const part = (name, text) => {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  };
  const item = (line) => {
    const item = document.createElement("li");
    item.dataset.outcome = line.outcome;
    item.className = line.is_minor ? `${line.outcome} minor` : line.outcome;
    item.dataset.alias = line.alias;
    item.dataset.cause = line.cause ?? "";
    const at = new Date(line.at);
    const time = part("time", at.toISOString().slice(11, 23));
    time.dateTime = at.toISOString();
    item.append(time, part("strong", line.message), part("code", line.fields));
    item.hidden = !wanted(item);
    return item;
  };
  const show = (lines) => {
    list.prepend(...lines.map(item).reverse());
    while (list.children.length > LIVE.lines) list.lastChild.remove();
    count();
  };
  const gap = (why) => ({ at: Date.now(), outcome: "failure", is_minor: false, message: "gap", alias: "", fields: why });
  // What comes while a form is on its way is shown beside the page that answers. If none does, the form was not sent.
  let leaving = 0;
  document.addEventListener("submit", () => { leaving = Date.now(); });
  const remember = (id) => {
    read = id;
    if (Date.now() - leaving < LIVE.leaves) return;
    try { sessionStorage.setItem(LIVE.key, JSON.stringify({ id, at: Date.now() })); } catch { /* Without storage it begins anew. */ }
  };
  // Behind what the page before has shown, if that was a moment ago and the server still counts from the same line.
  const begin = () => {
    const { after } = view.dataset;
    try {
      const { id, at } = JSON.parse(sessionStorage.getItem(LIVE.key)) ?? {};
      const [since, line] = id.split("-");
      const [sinceNow, lineNow] = after.split("-");
      if (Date.now() - at < LIVE.resumesFor && since === sinceNow && Number(line) < Number(lineNow)) return id;
    } catch { /* As if there were nothing. */ }
    return after;
  };

  view.connect = () => {
    if (source) return;
    filters.hidden = false;
    status.textContent = "Connecting…";
    remember(read ?? begin());
    source = new EventSource(`/admin/live/stream/?after=${read}`);
    source.addEventListener("open", () => {
      status.textContent = "Connected.";
      count();
    });
    source.addEventListener("message", (event) => {
      const { lines, missed, is_torn } = JSON.parse(event.data);
      remember(event.lastEventId);
      if (missed) lines.unshift(gap(`${missed} lines are not kept any more`));
      if (is_torn) lines.unshift(gap("what was before is not kept: the server was started anew, or nobody watched"));
      if (!isPaused()) return show(lines);
      waiting = waiting.concat(lines);
      dropped += Math.max(0, waiting.length - LIVE.lines);
      waiting = waiting.slice(-LIVE.lines);
      count();
    });
    source.addEventListener("error", () => {
      status.textContent = source.readyState === EventSource.CLOSED
        ? "The server refused. Reload the page; perhaps you have to sign in again." : "Cut off; trying again…";
    });
  };
  view.disconnect = () => {
    source?.close();
    source = undefined;
  };
  filters.addEventListener("input", () => {
    for (const line of list.children) line.hidden = !wanted(line);
    count();
  });
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    event.stopPropagation();
  });
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", !isPaused());
    if (!isPaused()) {
      show(waiting);
      waiting = [];
      dropped = 0;
    }
    count();
  });
  view.querySelector("[data-clear]").addEventListener("click", () => {
    list.replaceChildren();
    count();
  });
}

for (const view of document.querySelectorAll("[data-live]")) {
  live(view);
  const folded = view.closest("details");
  const open = "larder-watch";
  // A browser has few connections to a server, so that pages which nobody looks at let theirs go.
  const follow = () => {
    if (!document.hidden && (folded?.open ?? true)) view.connect(); else view.disconnect();
  };
  document.addEventListener("visibilitychange", follow);
  if (!folded) {
    follow();
    continue;
  }
  folded.addEventListener("toggle", () => {
    follow();
    try { localStorage.setItem(open, folded.open ? "1" : ""); } catch { /* It is folded next time. */ }
  });
  try { folded.open = localStorage.getItem(open) === "1"; } catch { /* See above. */ }
}
