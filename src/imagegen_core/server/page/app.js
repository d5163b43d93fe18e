/** The page: connects the form, the jobs and the pictures. */

import { ServerError, getJson, readiness, useKey } from "./api.js";
import { offerFields } from "./capabilities.js";
import * as editor from "./editor.js";
import { acceptChosen, acceptDropped, acceptPasted } from "./files.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as input from "./input.js";
import * as jobs from "./jobs.js";
import { offerParameters } from "./parameters.js";
import { RecipeError, readRecipe } from "./png.js";

const POLL = 1000;
const LISTS = ["loras", "samplers", "schedulers", "latent-upscale-modes", "upscalers"];
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
    const [modes, models, styles, samplers, schedules, latents, upscalers] = await Promise.all(
      ["api/modes", "v1/models", ...LISTS.map((name) => `sdapi/v1/${name}`)].map(getJson),
    );
    offerModes(modes, models.data);
    form.offer(at("style"), names(styles));
    for (const stage of ["", "hires-"]) {
      form.offer(at(`${stage}scheduler`), names(samplers));
      form.offer(at(`${stage}schedule`), schedules.map(({ label }) => label));
    }
    form.offer(at("hires-upscaler"), upscalersOfStages(latents, upscalers));
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
    const { parameters, fields } = models.find(({ id }) => id === name) ?? models[0] ?? {};
    offerParameters(at("parameters"), parameters ?? {});
    offerFields(fields ?? []);
    input.refresh();
    at("mode-hint").textContent = description ?? "";
    at("mode-hint").hidden = !description;
  };
  at("mode").onchange();
}

/** Return the ways to enlarge a stage, by the names of `hires.upscaler`; the form's first option is the default. */
function upscalersOfStages(latents, upscalers) {
  const [, ...others] = names(latents).map((name) => name.toLowerCase());
  return [...others, ...names(upscalers).filter((name) => name !== "None")];
}

function names(entries) {
  return entries.map(({ name }) => name);
}

async function draw(event) {
  event.preventDefault();
  form.clearError();
  const [source, requests] = [input.source(), form.requests()];
  try {
    const picture = await input.fields();
    for (const request of requests) {
      const id = await jobs.post({ ...request, ...picture });
      show(id, request, source);
    }
  } catch (error) {
    report(error);
  }
}

async function show(id, asked, source) {
  const figure = new gallery.Figure(asked, source, { cancel: (one) => giveUp(id, one), reuse, vary, use });
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

function reuse(recipe, source) {
  input.restore(source);
  tell("The form has this picture's recipe.", ...form.fill(recipe));
  at("prompt").focus();
}

function vary(recipe, source) {
  input.restore(source);
  const missing = form.fill(recipe);
  form.vary();
  tell(`Draw makes variations of the picture with the seed ${recipe.seed}.`, ...missing);
  at("draw").focus();
}

async function use(blob, name) {
  form.clearError();
  try {
    await input.take(blob, name);
    at("input").scrollIntoView({ block: "nearest" });
  } catch (error) {
    report(error);
  }
}

async function load(file) {
  try {
    const recipe = await readRecipe(file, file.name);
    const asks = recipe.image ? ["It began with a picture: choose it as the input."] : [];
    if (recipe.mask) {
      asks.push("It had a mask: paint it again.");
    }
    input.expect(recipe);
    tell(`The form has the recipe of ${file.name}.`, ...asks, ...form.fill(recipe));
  } catch (error) {
    form.showError(error instanceof RecipeError ? error.message : `${file.name} cannot be read`);
  }
}

function tell(...sentences) {
  at("notice").textContent = sentences.join(" ");
}

function report(error) {
  if (error instanceof input.InputError) {
    form.showError(error.message);
    return;
  }
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
  const begin = (file) => use(file, file.name);
  acceptChosen(at("input-file"), begin);
  acceptChosen(at("file"), load);
  acceptDropped({ input: begin, recipe: load });
  acceptPasted(begin);
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
input.prepare(form.takeSize);
editor.prepare();
gallery.prepare();
offerThemes();
acceptFiles();
watchServer();
