/** Jobs: post, follow and cancel them. */

import { ServerError, parseExactly, request, writeExactly } from "./api.js";

const ENDS = ["done", "failed", "cancelled"];
const TRIES = 5;
const PAUSE = 1000;

// Browsers open six connections to an HTTP/1.1 server. Some must stay free, above all for Cancel.
const STREAMS = 4;
const waiting = [];
let following = 0;

/** Post a job and return its id; `asked` has the request's fields. */
export async function post(asked) {
  const body = writeExactly(asked);
  const headers = { "Content-Type": "application/json" };
  const response = await request("v1/jobs", { method: "POST", headers, body });
  return (await response.json()).id;
}

/** Cancel a job; return false if it had already ended. */
export async function cancel(id) {
  const response = await request(`v1/jobs/${id}`, { method: "DELETE" });
  return (await response.json()).status === "cancelled";
}

export async function picture(id) {
  const response = await request(`v1/jobs/${id}/image`);
  return response.blob();
}

/** Yield all events of a job, {id, name, data}. */
export async function* follow(id) {
  await acquire();
  try {
    yield* unbroken(id);
  } finally {
    release();
  }
}

/** Yield a job's events, and reconnect after a broken connection. */
async function* unbroken(id) {
  let last = null;
  for (let attempt = 1; attempt <= TRIES; attempt += 1) {
    try {
      for await (const event of events(id, last)) {
        last = event.id;
        yield event;
        if (ENDS.includes(event.name)) {
          return;
        }
      }
    } catch (error) {
      if (error instanceof ServerError && error.status !== 0) {
        throw error;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  throw new ServerError(0, "The connection to the server broke, and the job with it may go on: draw it again");
}

/** Yield a job's events after `last`. EventSource cannot send the API key. */
async function* events(id, last) {
  const headers = last === null ? {} : { "Last-Event-ID": last };
  const response = await request(`v1/jobs/${id}/events`, { headers });
  let block = [];
  for await (const line of lines(response.body)) {
    if (line !== "") {
      block.push(line);
      continue;
    }
    const event = parse(block);
    block = [];
    if (event) {
      yield event;
    }
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      const complete = (rest + value).split("\n");
      rest = complete.pop();
      for (const line of complete) {
        yield line.replace(/\r$/, "");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Parse an event's lines; return null for a comment. Servers send comments to keep a connection open. */
function parse(block) {
  const fields = { id: "", event: "", data: "" };
  for (const line of block) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name in fields) {
      fields[name] = name === "data" ? fields.data + value : value;
    }
  }
  return fields.event ? { id: fields.id, name: fields.event, data: parseExactly(fields.data) } : null;
}

function acquire() {
  if (following < STREAMS) {
    following += 1;
    return Promise.resolve();
  }
  return new Promise((resolve) => waiting.push(resolve));
}

function release() {
  const next = waiting.shift();
  if (next) {
    next();
  } else {
    following -= 1;
  }
}
