/** Pictures that are chosen, dropped or pasted. */

/** Call `chosen` with each file of a file input. */
export function acceptChosen(input, chosen) {
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file) {
      await chosen(file);
      input.value = ""; // allows the same file to be chosen again
    }
  });
}

/** Call one of the `uses` with each dropped file; the zone below the pointer has the name of the use. */
export function acceptDropped(uses) {
  const root = document.documentElement;
  addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) {
      event.preventDefault();
      root.classList.toggle("dropping", !isDialogOpen());
    }
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) {
      root.classList.remove("dropping");
    }
  });
  addEventListener("drop", (event) => {
    root.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) {
      event.preventDefault();
      if (!isDialogOpen()) {
        uses[event.target.closest("[data-drop]")?.dataset.drop ?? "input"](file);
      }
    }
  });
}

/** Call `pasted` with each pasted picture; text goes into the field with the focus. */
export function acceptPasted(pasted) {
  addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    const [file] = [...files].filter(({ type }) => type.startsWith("image/"));
    const isText = types.includes("text/plain") && event.target.closest("input, textarea");
    if (file && !isText && !isDialogOpen()) {
      event.preventDefault();
      pasted(file);
    }
  });
}

function isDialogOpen() {
  return document.querySelector("dialog[open]") !== null;
}
