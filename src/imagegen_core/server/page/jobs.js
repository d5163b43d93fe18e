/** Jobs: posting them, following their events, giving them up. */

import { ServerError, parseExactly, request } from "./api.js";

const ENDS = ["done", "failed", "cancelled"];
const TRIES = 5;
const PAUSE = 1000;

// Browsers open six connections to a server that speaks HTTP/1.1; some have to stay free, for Cancel above all.
const STREAMS = 4;
const waiting = [];
let following = 0;

/** Post a job; `body` is JSON. Gives its id. */
export async function post(body) {
  const headers = { "Content-Type": "application/json" };
  const response = await request("v1/jobs", { method: "POST", headers, body });
  return (await response.json()).id;
}

/** Give a job up; tells whether that came in time. */
export async function cancel(id) {
  const response = await request(`v1/jobs/${id}`, { method: "DELETE" });
  return (await response.json()).status === "cancelled";
}

export async function picture(id) {
  const response = await request(`v1/jobs/${id}/image`);
  return response.blob();
}

/** Every event of a job, {id, name, data}, until its last. */
export async function* follow(id) {
  await acquire();
  try {
    yield* unbroken(id);
  } finally {
    release();
  }
}

/** A job's events through a connection that may break. */
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

/** A job's events after `last`. EventSource could not send the API key. */
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

/** One event of its lines, or null where they are a comment, which servers send to keep a connection open. */
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
