// Each client streams once and prints one line of JSON: {text} or {error}. usage: node clients.mjs CLIENT BASE_URL [SCRIPT]
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";
import { EventSource } from "eventsource";
import OpenAI from "openai";

const [, , client, base, script] = process.argv;
const headers = script ? { "x-script": script } : {};
const messages = [{ role: "user", content: "Hello" }];

const clients = {
  async openai() {
    const sdk = new OpenAI({ apiKey: "k", baseURL: `${base}/v1`, maxRetries: 0, defaultHeaders: headers });
    let text = "";
    for await (const chunk of await sdk.chat.completions.create({ model: "m", messages, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    return text;
  },
  async anthropic() {
    const sdk = new Anthropic({ apiKey: "k", baseURL: base, maxRetries: 0, defaultHeaders: headers });
    const stream = sdk.messages.stream({ model: "m", max_tokens: 64, messages });
    return (await stream.finalMessage()).content[0].text;
  },
  async vercel() {
    const provider = createOpenAICompatible({ name: "gate", apiKey: "k", baseURL: `${base}/v1`, headers });
    let failed = null;
    const result = streamText({ model: provider("m"), messages, maxRetries: 0, onError: ({ error }) => (failed = error) });
    let text = "";
    for await (const part of result.textStream) text += part;
    if (failed) throw failed;
    if ((await result.finishReason) !== "stop") throw new Error(`finish reason ${await result.finishReason}`);
    return text;
  },
  eventsource() {
    return new Promise((resolve, reject) => {
      const seen = [];
      const source = new EventSource(`${base}/events`);
      source.onerror = (error) => (source.close(), seen.length ? resolve(seen.join("")) : reject(error));
      source.onmessage = (event) => seen.push(event.data);
      for (const kind of ["token", "done", "tick"]) source.addEventListener(kind, (event) => seen.push(event.data));
    });
  },
};

try {
  console.log(JSON.stringify({ text: await clients[client]() }));
} catch (error) {
  console.log(JSON.stringify({ error: error.constructor.name, message: String(error.message) }));
}
