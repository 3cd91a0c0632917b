// Every client meets a stream or an answer that goes wrong. usage: node faults.mjs BASE_URL 'JSON list of [CLIENT, PREFIX, SCRIPT]'
// Prints one line of JSON for each: {client, script, text, error, status, message}; error is null where the client saw a clean end.
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";
import { EventSource } from "eventsource";
import OpenAI from "openai";

const [, , base, wanted] = process.argv;
const messages = [{ role: "user", content: "Hello" }];
const openai = (at, headers) => new OpenAI({ apiKey: "k", baseURL: `${at}/v1`, maxRetries: 0, defaultHeaders: headers });
const anthropic = (at, headers) => new Anthropic({ apiKey: "k", baseURL: at, maxRetries: 0, defaultHeaders: headers });

const clients = {
  async chat(at, headers, say) {
    const stream = await openai(at, headers).chat.completions.create({ model: "m", messages, stream: true });
    for await (const chunk of stream) say(chunk.choices[0]?.delta?.content ?? "");
  },
  async completions(at, headers, say) {
    const stream = await openai(at, headers).completions.create({ model: "m", prompt: "Hello", stream: true });
    for await (const chunk of stream) say(chunk.choices[0]?.text ?? "");
  },
  async responses(at, headers, say) {
    const stream = await openai(at, headers).responses.create({ model: "m", input: "Hello", stream: true });
    for await (const event of stream) if (event.type === "response.output_text.delta") say(event.delta);
  },
  async whole(at, headers, say) {
    const answer = await openai(at, headers).chat.completions.create({ model: "m", messages });
    say(answer.choices[0].message.content);
  },
  async messages(at, headers, say) {
    const stream = anthropic(at, headers).messages.stream({ model: "m", max_tokens: 64, messages });
    stream.on("text", say);
    await stream.finalMessage();
  },
  async raw_messages(at, headers, say) {
    const stream = await anthropic(at, headers).messages.create({ model: "m", max_tokens: 64, messages, stream: true });
    for await (const event of stream) if (event.type === "content_block_delta") say(event.delta.text);
  },
  async vercel(at, headers, say) {
    const provider = createOpenAICompatible({ name: "gate", apiKey: "k", baseURL: `${at}/v1`, headers });
    let failed = null;
    const result = streamText({ model: provider("m"), messages, maxRetries: 0, onError: ({ error }) => (failed = error) });
    for await (const part of result.textStream) say(part);
    if (failed) throw failed;
    if ((await result.finishReason) !== "stop") throw new Error(`finish reason ${await result.finishReason}`);
  },
  eventsource(at, headers, say) {
    return new Promise((resolve, reject) => {
      const query = new URLSearchParams((headers["x-script"] ?? "").split(",").map((pair) => pair.trim().split("=")));
      const source = new EventSource(`${at}/events?${query}`);
      for (const kind of ["token", "message", "tick"]) source.addEventListener(kind, (event) => say(event.data));
      // a clean end of the connection is an error event without data, by which the source comes back; ours has data
      source.addEventListener("error", (event) => (source.close(), event.data ? reject(new Error(event.data)) : resolve()));
    });
  },
};

for (const [client, prefix, script] of JSON.parse(wanted)) {
  const said = { client, prefix, script, text: "", error: null };
  try {
    await clients[client](`${base}${prefix}`, script ? { "x-script": script } : {}, (text) => (said.text += text));
  } catch (error) {
    Object.assign(said, { error: error.constructor.name, status: error.status ?? error.statusCode, message: String(error.message) });
  }
  console.log(JSON.stringify(said));
}
