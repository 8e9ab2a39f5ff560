// Warns before an edited form is left, ticks all rows at once, narrows long lists of choices. Every page works without it.
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
  const options = [...narrow.parentElement.querySelectorAll(".options label")];
  narrow.querySelector("input").addEventListener("input", (event) => {
    const word = event.target.value.trim().toLowerCase();
    for (const option of options) option.hidden = !option.textContent.toLowerCase().includes(word);
  });
}
