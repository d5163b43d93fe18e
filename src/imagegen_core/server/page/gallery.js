/** The pictures of this session, newest first, from the queue to the finished picture. */

import { compare, setCompared } from "./comparison.js";
import { SIDES } from "./sides.js";

const gallery = document.getElementById("gallery");
const empty = document.getElementById("empty");
const progress = document.getElementById("progress");
const template = document.getElementById("picture");
const large = document.getElementById("large");

const LABELS = {
  prompt: "Prompt",
  negative_prompt: "Negative prompt",
  seed: "Seed",
  size: "Size",
  steps: "Steps",
  guidance_scale: "Guidance scale",
  scheduler: "Sampler",
  schedule: "Noise schedule",
  style: "Style",
  style_level: "Style level",
  checkpoint: "Model",
  input: "Input picture",
  strength: "Strength",
  resize: "Fit",
  image_guidance_scale: "Image guidance",
  inpaint: "Mask",
  outpaint: "Drawn around it",
  hires: "Second stage",
  variation: "Variation",
  upscaling: "Upscaling",
};

/** One picture on the page. */
export class Figure {
  /**
   * Add the picture. `asked` has the job's fields, and `source` is its input picture or null. `actions` has
   * cancel(figure), reuse(recipe, source), vary(recipe, source) and use(blob, name).
   */
  constructor(asked, source, actions) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.recipe = recipeOf(asked, source);
    this.source = source;
    this.blob = null;
    this.url = null;
    this.#part(".told").textContent = asked.prompt || "No prompt";
    this.#part(".frame").style.aspectRatio = ratioOf(asked.size);
    this.#part(".frame").addEventListener("click", () => this.#enlarge());
    this.#part(".cancel").addEventListener("click", () => actions.cancel(this));
    this.#part(".reuse").addEventListener("click", () => actions.reuse(this.recipe, this.source));
    this.#part(".vary").addEventListener("click", () => actions.vary(this.recipe, this.source));
    this.#part(".use").addEventListener("click", () => actions.use(this.blob, this.#part(".download").download));
    this.#part(".remove").addEventListener("click", () => this.#remove());
    gallery.prepend(this.element);
    empty.hidden = true;
    this.element.scrollIntoView({ block: "nearest" });
  }

  queued(place) {
    this.#say(place > 1 ? `In line, place ${place}` : "Next in line");
    announce(this.#part(".state").textContent);
  }

  started() {
    this.#state("drawing");
    this.#say("Drawing");
    announce("Drawing");
  }

  step(step, steps, preview) {
    Object.assign(this.#part("progress"), { max: steps, value: step });
    this.#say(step < steps ? `Drawing, step ${step} of ${steps}` : "Finishing");
    if (preview) {
      this.#show(`data:image/png;base64,${preview}`);
    }
  }

  done(blob, seed, recipe) {
    this.recipe = recipe ?? { ...this.recipe, seed };
    this.blob = blob;
    this.url = URL.createObjectURL(blob);
    this.#show(this.url, () => this.source && compare(this.element, this.#part("img"), this.source));
    this.#part("img").alt = this.recipe.prompt;
    this.#part(".frame").setAttribute("aria-label", `Enlarge: ${this.recipe.prompt}, seed ${seed}`);
    this.#part(".seed").textContent = `Seed ${seed}`;
    Object.assign(this.#part(".download"), { href: this.url, download: `imagegen-${seed}.png` });
    describe(this.#part("dl"), this.recipe, this.source);
    this.#say("");
    this.#state("done");
    announce(`Done, seed ${seed}`);
  }

  failed(sentence) {
    this.#say(sentence);
    this.#state("failed");
  }

  cancelled() {
    this.#say("Cancelled");
    this.#state("cancelled");
    announce("Cancelled");
  }

  get ended() {
    return !["waiting", "drawing"].includes(this.element.dataset.state);
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #say(text) {
    this.#part(".state").textContent = text;
  }

  #show(url, shown = () => {}) {
    const image = this.#part("img");
    image.onload = () => {
      this.#part(".frame").style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`;
      shown();
    };
    image.src = url;
    image.hidden = false;
  }

  #state(state) {
    const held = this.element.contains(document.activeElement);
    this.element.dataset.state = state;
    const done = state === "done";
    const parts = {
      progress: !this.ended,
      ".cancel": !this.ended,
      ".state": !done,
      ".seed": done,
      ".recipe": done,
      ".download": done,
      ".use": done,
      ".vary": done,
      ".reuse": this.ended,
      ".remove": this.ended,
    };
    for (const [selector, shown] of Object.entries(parts)) {
      this.#part(selector).hidden = !shown;
    }
    this.#part(".frame").disabled = !done;
    // Hiding the focused button would lose the keyboard focus.
    if (held && document.activeElement.hidden) {
      this.#part(".reuse").focus();
    }
  }

  #enlarge() {
    const image = large.querySelector("img");
    setCompared(large, false);
    image.onload = () => this.source && compare(large, image, this.source);
    image.src = this.url;
    image.alt = this.recipe.prompt;
    large.showModal();
  }

  #remove() {
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    this.element.remove();
    URL.revokeObjectURL(this.url);
    empty.hidden = gallery.childElementCount > 0;
    (next?.querySelector("button:enabled:not([hidden])") ?? document.getElementById("prompt")).focus();
  }
}

/** Announce a text to screen readers. */
export function announce(text) {
  progress.textContent = text;
}

export function prepare() {
  large.addEventListener("click", ({ target }) => {
    if (target === large) {
      large.close();
    }
  });
}

/** Build a recipe from the request, for a picture without a recipe. */
function recipeOf(asked, source) {
  const [width, height] = (asked.size ?? "").split("x");
  return {
    prompt: asked.prompt,
    negative_prompt: asked.negative_prompt,
    seed: asked.seed,
    width,
    height,
    steps: asked.num_inference_steps,
    guidance_scale: asked.guidance_scale,
    scheduler: asked.scheduler,
    schedule: asked.schedule,
    style: asked.style_lora?.style,
    style_level: asked.style_lora?.level,
    strength: source?.strength,
    outpaint: source?.sides,
    resize: asked.resize,
    image_guidance_scale: asked.image_guidance_scale,
    inpaint: asked.inpaint,
    hires: asked.hires,
    variation: asked.variation,
    upscalings: Array(asked.superres_magnitude ?? 0).fill({}),
  };
}

function ratioOf(size) {
  const [width, height] = (size ?? "1x1").split("x").map(Number);
  return width > 0 && height > 0 ? `${width} / ${height}` : "1";
}

function describe(list, recipe, source) {
  const told = {
    ...recipe,
    size: recipe.width && `${recipe.width}x${recipe.height}`,
    style_level: recipe.style && recipe.style_level,
    input: source && `${source.name}${source.strokes.length > 0 ? ", with a mask" : ""}`,
    outpaint: source && around(source.sides),
    inpaint: recipe.inpaint && listed(recipe.inpaint),
    hires: recipe.hires && listed(recipe.hires),
    variation: recipe.variation && listed(recipe.variation),
    upscaling: enlarged(recipe),
  };
  for (const [name, label] of Object.entries(LABELS)) {
    if (told[name] || told[name] === 0) {
      list.append(element("dt", label), element("dd", told[name]));
    }
  }
}

function around(sides) {
  return SIDES.filter((name) => sides[name] > 0)
    .map((name) => `${name} ${sides[name]}`)
    .join(", ");
}

/** List options such as {only_masked: true, blur: 4} as "only masked, blur 4". */
function listed(options) {
  return Object.entries(options)
    .map(([name, value]) => `${name.replaceAll("_", " ")}${value === true ? "" : ` ${value}`}`)
    .join(", ");
}

function enlarged(recipe) {
  return (recipe.upscalings ?? [])
    .map(({ upscaler, factor }) => (upscaler ? `${upscaler} ×${factor}` : "once"))
    .join(", ");
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
