// Warns before an edited form is left. Every page works without this file.
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
