// A page served by the gateway reads a stream with fetch and one with EventSource. usage: node browser.mjs CHROMIUM BASE_URL
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [, , executablePath, base] = process.argv;
const profile = await mkdtemp(join(tmpdir(), "streamgate-chromium-"));
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args });
try {
  const page = await context.newPage();
  await page.goto(`${base}/page`);
  const said = await page.evaluate(async () => {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", "x-script": "tokens=6, delay_ms=20" },
      body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content: "Hello" }] }),
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let [fetched, reads] = ["", 0];
    for (let part = await reader.read(); !part.done; part = await reader.read()) [fetched, reads] = [fetched + part.value, reads + 1];
    const events = await new Promise((resolve) => {
      let seen = 0;
      const source = new EventSource("/events");
      const count = () => (seen += 1);
      for (const kind of ["message", "tick", "token"]) source.addEventListener(kind, count);
      source.onerror = () => (source.close(), resolve(seen));
    });
    return { fetched, reads, events };
  });
  console.log(JSON.stringify(said));
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
