/** The page: connects the form, the jobs and the pictures. */

import { ServerError, getJson, parseExactly, readiness, useKey } from "./api.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as jobs from "./jobs.js";
import { offerParameters } from "./parameters.js";
import { RecipeError, readRecipe } from "./png.js";

const POLL = 1000;
const STATES = {
  loading: "The model is being loaded",
  failed: "The model could not be loaded",
  stopping: "The server is stopping",
  full: "The queue is full",
};

const at = (id) => document.getElementById(id);
let watching = false;

/** Disable Draw until the server is ready, and show the reason. */
async function watchServer() {
  if (watching) {
    return;
  }
  watching = true;
  for (let state = await serverState(); state !== ""; state = await serverState()) {
    at("server-state").textContent = state;
    at("server-state").hidden = false;
    at("draw").disabled = true;
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
  at("server-state").hidden = true;
  at("draw").disabled = false;
  watching = false;
  await loadChoices();
}

/** Return the reason why the server cannot draw now; empty if it can. */
async function serverState() {
  try {
    const { status, detail } = await readiness();
    if (status === "ready") {
      return "";
    }
    return status === "failed" && detail ? `${STATES.failed}: ${detail}` : (STATES[status] ?? "The server is not ready");
  } catch (error) {
    return error.message;
  }
}

async function loadChoices() {
  try {
    const [modes, models, styles, samplers, schedules] = await Promise.all(
      ["api/modes", "v1/models", "sdapi/v1/loras", "sdapi/v1/samplers", "sdapi/v1/schedulers"].map(getJson),
    );
    offerModes(modes, models.data);
    form.offer(at("style"), names(styles));
    form.offer(at("scheduler"), names(samplers));
    form.offer(at("schedule"), schedules.map(({ label }) => label));
    for (const field of document.querySelectorAll(".style")) {
      field.hidden = styles.length === 0;
    }
  } catch (error) {
    report(error);
  }
}

/** Offer the modes if there are several; the first option is the default mode, shown with its name. */
function offerModes({ modes, default_mode: byDefault }, models) {
  const offered = Object.keys(modes);
  form.offer(at("mode"), offered);
  at("mode").options[0].text = `${byDefault} (the server's default)`;
  document.querySelector(".mode").hidden = offered.length < 2;
  at("mode").onchange = () => {
    const name = at("mode").value || byDefault;
    const { description } = modes[name] ?? {};
    const { parameters } = models.find(({ id }) => id === name) ?? models[0] ?? {};
    offerParameters(at("parameters"), parameters ?? {});
    at("mode-hint").textContent = description ?? "";
    at("mode-hint").hidden = !description;
  };
  at("mode").onchange();
}

function names(entries) {
  return entries.map(({ name }) => name);
}

async function draw(event) {
  event.preventDefault();
  form.clearError();
  for (const body of form.bodies()) {
    try {
      const id = await jobs.post(body);
      show(id, parseExactly(body));
    } catch (error) {
      report(error);
      return;
    }
  }
}

async function show(id, asked) {
  const figure = new gallery.Figure(asked, { cancel: (one) => giveUp(id, one), reuse });
  try {
    for await (const { name, data } of jobs.follow(id)) {
      await hear(id, figure, name, data);
    }
  } catch (error) {
    figure.failed(error.message);
    report(error);
  }
}

async function hear(id, figure, name, data) {
  if (figure.ended) {
    return; // the job was cancelled before these events arrived
  }
  const heard = {
    queued: () => figure.queued(data.place),
    started: () => figure.started(),
    step: () => figure.step(data.step, data.steps, data.preview),
    done: () => finish(id, figure, data),
    failed: () => Promise.reject(new ServerError(200, data.detail, data.field)),
    cancelled: () => figure.cancelled(),
  };
  await heard[name]?.();
}

async function finish(id, figure, { seed }) {
  const blob = await jobs.picture(id);
  const recipe = await readRecipe(blob, "the picture").catch(() => null);
  figure.done(blob, seed, recipe);
}

async function giveUp(id, figure) {
  try {
    if ((await jobs.cancel(id)) && !figure.ended) {
      figure.cancelled();
    }
  } catch (error) {
    report(error);
  }
}

function reuse(recipe) {
  at("notice").textContent = ["The form has this picture's recipe.", ...form.fill(recipe)].join(" ");
  at("prompt").focus();
}

async function load(file) {
  try {
    const recipe = await readRecipe(file, file.name);
    at("notice").textContent = [`The form has the recipe of ${file.name}.`, ...form.fill(recipe)].join(" ");
  } catch (error) {
    form.showError(error instanceof RecipeError ? error.message : `${file.name} cannot be read`);
  }
}

function report(error) {
  if (!(error instanceof ServerError)) {
    throw error;
  }
  form.showError(error.message, error.field);
  if (error.status === 401) {
    at("key-form").hidden = false;
    at("key").focus();
  } else if (error.status === 503 || error.status === 0) {
    watchServer();
  }
}

async function enterKey(event) {
  event.preventDefault();
  useKey(at("key").value);
  at("key-form").hidden = true;
  at("key").value = "";
  form.clearError();
  at("prompt").focus();
  await loadChoices();
}

function acceptFiles() {
  at("file").addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (file) {
      await load(file);
      target.value = ""; // allows the same file to be chosen again
    }
  });
  const root = document.documentElement;
  addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) {
      event.preventDefault();
      root.classList.add("dropping");
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
      load(file);
    }
  });
}

function offerThemes() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const other = () => (chosen() === "dark" ? "light" : "dark");
  const label = () => (at("theme").textContent = other() === "dark" ? "Dark theme" : "Light theme");
  at("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = other();
    localStorage.setItem("imagegen-theme", chosen());
    label();
  });
  dark.addEventListener("change", label);
  label();
}

at("form").addEventListener("submit", draw);
at("key-form").addEventListener("submit", enterKey);
form.prepare();
gallery.prepare();
offerThemes();
acceptFiles();
watchServer();
