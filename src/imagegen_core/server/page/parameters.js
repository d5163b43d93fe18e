/** The fields of the form for the parameters that plugins declare. */

const place = document.getElementById("parameters");

/** Show a field for each parameter; values of parameters that stay are kept. */
export function offerParameters(element, declared) {
  const before = parameters();
  const made = Object.entries(declared).map(([name, schema]) => field(name, schema));
  element.replaceChildren(...made);
  element.hidden = made.length === 0;
  fillParameters(before);
}

/** Return the values that differ from the defaults, by name. */
export function parameters() {
  const inputs = [...place.querySelectorAll("[data-default]")];
  const values = inputs.map((input) => [input.name, value(input)]);
  return Object.fromEntries(values.filter(([, given], number) => JSON.stringify(given) !== inputs[number].dataset.default));
}

/** Fill the fields, the others with their defaults; return a sentence for each value without a field. */
export function fillParameters(values) {
  const inputs = new Map([...place.querySelectorAll("[data-default]")].map((input) => [input.name, input]));
  for (const [name, input] of inputs) {
    show(input, name in values ? values[name] : JSON.parse(input.dataset.default));
  }
  const unknown = Object.entries(values).filter(([name]) => !inputs.has(name));
  return unknown.map(([name, given]) => `It was drawn with ${name} ${JSON.stringify(given)}, which this server lacks.`);
}

function field(name, schema) {
  const input = schema.enum ? select(schema.enum) : document.createElement("input");
  const label = document.createElement("label");
  const hint = document.createElement("p");
  const block = document.createElement("div");
  input.id = `parameter-${name}`;
  input.name = name;
  input.dataset.default = JSON.stringify(schema.default);
  input.dataset.type = schema.enum ? "json" : (schema.type ?? "json");
  prepare(input, schema);
  show(input, schema.default);
  label.htmlFor = input.id;
  label.textContent = name.replaceAll("_", " ");
  hint.id = `${input.id}-hint`;
  hint.className = "hint";
  hint.textContent = schema.description;
  input.setAttribute("aria-describedby", hint.id);
  block.className = "field wide";
  block.append(label, input, hint);
  return block;
}

function select(options) {
  const made = document.createElement("select");
  made.append(...options.map((option) => new Option(String(option), JSON.stringify(option))));
  return made;
}

function prepare(input, { type, minimum, maximum }) {
  if (type === "boolean") {
    input.type = "checkbox";
  } else if (type === "integer" || type === "number") {
    Object.assign(input, { type: "number", step: type === "integer" ? "1" : "any", required: true });
    Object.assign(input, { min: minimum ?? "", max: maximum ?? "" });
  } else {
    Object.assign(input, { autocomplete: "off", spellcheck: false });
  }
}

function show(input, given) {
  if (input.type === "checkbox") {
    input.checked = given;
  } else {
    input.value = input.dataset.type === "json" ? JSON.stringify(given) : given;
  }
}

/** Return a field's value; a text that is no JSON is sent as text, and the server says what it expects. */
function value(input) {
  if (input.type === "checkbox") {
    return input.checked;
  }
  if (input.dataset.type === "string") {
    return input.value;
  }
  try {
    return JSON.parse(input.value);
  } catch {
    return input.value;
  }
}
