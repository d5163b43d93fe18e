/** Requests to the server. Paths are relative to the page, because the page may be below a prefix. */

const KEY = "imagegen-key";

/** An error response of the server. */
export class ServerError extends Error {
  constructor(status, detail, field = null) {
    super(detail);
    this.status = status;
    this.field = field;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Fetch with the API key; throw a ServerError unless the response is a success. */
export async function request(path, options = {}) {
  const response = await fetchWithKey(path, options);
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

export async function getJson(path) {
  const response = await request(path);
  return response.json();
}

/** Return the response of `GET ready`: {status, detail}. */
export async function readiness() {
  const response = await fetchWithKey("ready");
  return response.json().catch(() => ({ status: "unknown", detail: "" }));
}

/** Parse JSON; large seeds become strings, because a number above 2**53 is not exact. */
export function parseExactly(text) {
  return JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));
}

/** Write JSON; seeds that are strings of digits become numbers. */
export function writeExactly(value) {
  return JSON.stringify(value).replace(/"seed":"(-?\d+)"/g, '"seed":$1');
}

async function fetchWithKey(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) {
    headers.set("Authorization", `Bearer ${key}`);
  }
  try {
    return await fetch(path, { ...options, headers });
  } catch {
    throw new ServerError(0, "The server cannot be reached: see whether it still runs");
  }
}

async function refusal(response) {
  const { detail, field } = await response.json().catch(() => ({}));
  const said = typeof detail === "string" ? detail : `The server answered ${response.status}`;
  return new ServerError(response.status, said, field ?? null);
}
