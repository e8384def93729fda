// Codex as a program, with a provider of its configuration: `codex exec` over the Responses API.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const home = mkdtempSync(join(tmpdir(), "codex-"));
const program = join(process.cwd(), "node_modules", ".bin", "codex");
writeFileSync(join(home, "instructions.md"), "Be brief.");
writeFileSync(join(home, "config.toml"), `
model = "avibe"
model_provider = "avito"
model_instructions_file = ${JSON.stringify(join(home, "instructions.md"))}
web_search = "disabled"
include_permissions_instructions = false
include_environment_context = false
[skills]
include_instructions = false
[model_providers.avito]
name = "Avito AI"
base_url = "${process.env.CLIENTS_ADDRESS}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
`);
// All of its tools are longer than the demo's whole context.
const few = ["multi_agent", "goals", "shell_tool", "unified_exec", "view_image"].flatMap((name) => ["--disable", name]);

function codex(...options) {
  const command = ["exec", "--skip-git-repo-check", "--json", "-s", "read-only", "-C", home, ...options, "Привет!"];
  const env = { PATH: process.env.PATH, HOME: home, CODEX_HOME: home };
  const done = spawnSync(program, command, { env, encoding: "utf8", timeout: 120_000, input: "" });
  return done.stdout.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

test("a turn and its usage", () => {
  const events = codex(...few);
  const said = events.filter((one) => one.type === "item.completed" && one.item.type === "agent_message");
  assert.ok(said.length > 0 && said[0].item.text, JSON.stringify(events));
  const { usage } = events.find((one) => one.type === "turn.completed");
  assert.ok(usage.input_tokens > 0 && usage.output_tokens > 0);
});

test("a second turn of the same conversation", () => {
  const thread = codex(...few).find((one) => one.type === "thread.started").thread_id;
  const command = ["exec", "resume", thread, "--skip-git-repo-check", "--json", ...few, "Короче!"];
  const env = { PATH: process.env.PATH, HOME: home, CODEX_HOME: home };
  const done = spawnSync(program, command, { cwd: home, env, encoding: "utf8", timeout: 120_000, input: "" });
  assert.match(done.stdout, /turn\.completed/);
});

test("all of its tools are read, and do not fit into the demo's context", () => {
  const failed = codex().find((one) => one.type === "turn.failed");
  assert.match(failed.error.message, /context window/);
});

test("a model that is not there is named", () => {
  const failed = codex("-m", "gpt-5", ...few).find((one) => one.type === "turn.failed");
  assert.match(failed.error.message, /no model of this name/);
});
