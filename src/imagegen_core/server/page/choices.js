/** Values of a recipe in the form: choose options, and tell about values without a field. */

/** Select an option, and return whether it exists. Before the options are loaded, remember the name. */
export function choose(select, name) {
  const wanted = name ?? "";
  const found = [...select.options].some((option) => option.value === wanted);
  select.value = found ? wanted : "";
  if (!found && select.options.length === 1) {
    select.dataset.wanted = wanted;
    return true;
  }
  delete select.dataset.wanted;
  return found;
}

/** Return a sentence if a recipe has a value that the page does not set. */
export function unset(name, value) {
  const isObject = typeof value === "object" && value !== null;
  if (value === undefined || value === null || (isObject && Object.keys(value).length === 0)) {
    return [];
  }
  return [`It was drawn with ${name} ${isObject ? JSON.stringify(value) : value}, which this page does not set.`];
}

/** Choose an option, and return a sentence if it does not exist. */
export function chooseOrTell(select, kind, name) {
  return choose(select, name) ? [] : [`The ${kind} ${name} is not on this server.`];
}
