// Post a job, follow its steps and save its picture, with Node 18 or later and no packages.
import { writeFile } from "node:fs/promises";

const url = process.env.IMAGEGEN_URL ?? "http://127.0.0.1:4200";
const headers = { "Content-Type": "application/json" };
if (process.env.IMAGEGEN_API_KEY) headers["X-API-Key"] = process.env.IMAGEGEN_API_KEY;

async function ask(address, options = {}) {
  const answer = await fetch(address, { ...options, headers });
  if (!answer.ok) throw new Error((await answer.json()).detail); // a sentence with the cause and the mend
  return answer;
}

async function* events(answer) {
  let text = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    text += part.replaceAll("\r\n", "\n");
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
      if (fields.event) yield { name: fields.event, ...JSON.parse(fields.data) };
    }
  }
}

const body = JSON.stringify({ prompt: "a red circle on a blue background", seed: 7 });
const job = await (await ask(`${url}/v1/jobs`, { method: "POST", body })).json();
for await (const event of events(await ask(`${url}/v1/jobs/${job.id}/events`))) {
  if (event.name === "step") console.log(`step ${event.step} of ${event.steps}`);
  if (event.name === "failed") throw new Error(event.detail);
}
const picture = await ask(`${url}/v1/jobs/${job.id}/image`);
await writeFile("javascript.png", Buffer.from(await picture.arrayBuffer()));
