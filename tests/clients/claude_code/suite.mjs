// Claude Code as a program, with ANTHROPIC_BASE_URL: its print mode, whole and streamed.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const noKey = "none"; // the client insists on one, the service does not
const home = mkdtempSync(join(tmpdir(), "claude-"));
const program = join(process.cwd(), "node_modules", ".bin", "claude");
const env = {
  PATH: process.env.PATH,
  HOME: home,
  ANTHROPIC_BASE_URL: process.env.CLIENTS_ADDRESS,
  ANTHROPIC_API_KEY: noKey,
  ANTHROPIC_MODEL: "avibe",
  ANTHROPIC_DEFAULT_HAIKU_MODEL: "avibe",
  CLAUDE_CODE_MAX_OUTPUT_TOKENS: "64",
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
  DISABLE_AUTOUPDATER: "1",
};
// Its own prompt and tools are longer than the demo's whole context.
const short = ["--system-prompt", "Be brief.", "--tools", "", "--max-turns", "1"];

function claude(...options) {
  const done = spawnSync(program, ["-p", "Привет!", ...options], { cwd: home, env, encoding: "utf8", timeout: 120_000, input: "" });
  return done.stdout.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

test("a text and its usage", () => {
  const [answer] = claude("--output-format", "json", ...short).slice(-1);
  assert.equal(answer.is_error, false);
  assert.ok(answer.result);
  assert.ok(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
});

test("events of a stream", () => {
  const events = claude("--output-format", "stream-json", "--verbose", "--include-partial-messages", ...short);
  const deltas = events.filter((one) => one.type === "stream_event" && one.event.type === "content_block_delta");
  const text = deltas.map((one) => one.event.delta.text ?? "").join("");
  assert.ok(deltas.length > 1);
  assert.equal(events.at(-1).result, text.trim());
});

test("a prompt that is too long, with all of its tools, is known as such", () => {
  const [answer] = claude("--output-format", "json", "--max-turns", "1").slice(-1);
  assert.equal(answer.is_error, true);
  assert.match(answer.result, /[Pp]rompt is too long/);
});

test("a model that is not there is named", () => {
  const [answer] = claude("--output-format", "json", "--model", "claude-opus-4-1", ...short).slice(-1);
  assert.equal(answer.is_error, true);
  assert.match(answer.result, /selected model/);
});
