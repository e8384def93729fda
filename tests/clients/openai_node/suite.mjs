// openai-node: chats, their helpers for tools and forms, completions and responses, as its guide uses them.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const noKey = "none"; // the client insists on one, the service does not
const client = new OpenAI({ baseURL: `${process.env.CLIENTS_ADDRESS}/v1`, apiKey: noKey, maxRetries: 0 });
const url = `data:image/png;base64,${readFileSync(process.env.CLIENTS_IMAGE).toString("base64")}`;
const ask = "Напиши объявление о продаже велосипеда.";
const messages = [{ role: "user", content: ask }];
const base = { model: "avibe", messages, max_tokens: 24 };
const Listing = z.object({ title: z.string().max(20), price: z.number().int().min(1).max(99999) });
const City = z.object({ city: z.string().max(12) });
const weather = zodFunction({ name: "get_weather", parameters: City, function: ({ city }) => `${city}: 20` });

test("the models are listed", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("avibe") && names.includes("avision"));
});

test("a chat and its stream", async () => {
  const whole = await client.chat.completions.create({ ...base, temperature: 0 });
  const stream = client.chat.completions.stream({ ...base, temperature: 0, stream_options: { include_usage: true } });
  let text = "";
  for await (const event of stream) text += event.choices[0]?.delta.content ?? "";
  assert.equal(text, whole.choices[0].message.content);
  assert.equal((await stream.finalContent()), text);
  assert.equal((await stream.totalUsage()).total_tokens, whole.usage.total_tokens);
});

test("a conversation of the library's own messages", async () => {
  const first = await client.chat.completions.create(base);
  const said = [...messages, first.choices[0].message, { role: "user", content: "Короче!" }];
  assert.ok((await client.chat.completions.create({ ...base, messages: said })).choices[0].message.content);
});

test("an image", async () => {
  const content = [{ type: "text", text: "What?" }, { type: "image_url", image_url: { url } }];
  const seen = { ...base, model: "avision", messages: [{ role: "user", content }] };
  assert.ok((await client.chat.completions.create(seen)).choices[0].message.content);
});

test("an answer is parsed, whole and streamed", async () => {
  const shaped = { ...base, max_tokens: 200, response_format: zodResponseFormat(Listing, "listing") };
  Listing.parse((await client.chat.completions.parse(shaped)).choices[0].message.parsed);
  const final = await client.chat.completions.stream(shaped).finalChatCompletion();
  Listing.parse(final.choices[0].message.parsed);
});

test("a forced call is parsed and its result read", async () => {
  const fields = { ...base, max_tokens: 200, tools: [weather], parallel_tool_calls: false };
  const called = await client.chat.completions.parse({ ...fields, tool_choice: "required" });
  const [call] = called.choices[0].message.tool_calls;
  City.parse(call.function.parsed_arguments);
  const result = { role: "tool", tool_call_id: call.id, content: "20 degrees" };
  const said = [...messages, called.choices[0].message, result];
  assert.ok((await client.chat.completions.create({ ...fields, messages: said, tool_choice: "none" })).choices[0].message);
});

test("the runner of tools goes round and ends", async () => {
  const choice = { type: "function", function: { name: "get_weather" } };
  for (const stream of [false, true]) {
    const fields = { ...base, max_tokens: 200, tools: [weather], tool_choice: choice, stream, parallel_tool_calls: false };
    const runner = client.chat.completions.runTools(fields, { maxChatCompletions: 2 });
    assert.match(await runner.finalFunctionToolCallResult(), /: 20$/);
  }
});

test("completions", async () => {
  const fields = { model: "avibe", prompt: "Продаётся", max_tokens: 6, temperature: 0 };
  let text = "";
  for await (const event of await client.completions.create({ ...fields, stream: true })) text += event.choices[0].text;
  assert.equal(text, (await client.completions.create(fields)).choices[0].text);
});

test("a response, its stream and its form", async () => {
  const fields = { model: "avibe", input: ask, instructions: "Be brief.", max_output_tokens: 24 };
  const whole = await client.responses.create({ ...fields, temperature: 0 });
  const stream = client.responses.stream({ ...fields, temperature: 0 });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal(text, whole.output_text);
  assert.equal((await stream.finalResponse()).output_text, text);
  const shaped = { ...fields, max_output_tokens: 200, text: { format: zodTextFormat(Listing, "listing") } };
  Listing.parse((await client.responses.parse(shaped)).output_parsed);
});

test("a response with a tool and an image", async () => {
  const { function: { name, parameters } } = weather;
  const tools = [{ type: "function", name, parameters, strict: true }];
  const fields = { model: "avibe", tools, max_output_tokens: 200 };
  const input = [{ role: "user", content: ask }];
  const first = await client.responses.create({ ...fields, input, tool_choice: "required" });
  const results = first.output.filter((item) => item.type === "function_call").map(({ call_id }) => ({
    type: "function_call_output", call_id, output: "20 degrees",
  }));
  const said = [...input, ...first.output, ...results];
  assert.ok((await client.responses.create({ ...fields, input: said, tool_choice: "none" })).output_text);
  const content = [{ type: "input_text", text: "What?" }, { type: "input_image", image_url: url, detail: "auto" }];
  const seen = { model: "avision", max_output_tokens: 16, input: [{ role: "user", content }] };
  assert.ok((await client.responses.create(seen)).output_text);
});

test("errors are the library's", async () => {
  await assert.rejects(client.chat.completions.create({ ...base, model: "gpt-4o" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...base, temperature: 3 }), (error) =>
    error instanceof OpenAI.BadRequestError && error.param === "temperature");
  const long = { ...base, messages: [{ role: "user", content: "слово ".repeat(4000) }], stream: true };
  await assert.rejects(client.chat.completions.create(long), { code: "context_length_exceeded" });
});

test("the example of docs/api.md prints an answer and its stream", async () => {
  const shown = /```js\n(.*?)```/s.exec(readFileSync(process.env.CLIENTS_DOCUMENT, "utf8"))[1];
  writeFileSync("shown.mjs", shown.replace("http://127.0.0.1:8085", process.env.CLIENTS_ADDRESS));
  const printed = execFileSync(process.execPath, ["shown.mjs"], { encoding: "utf8" });
  assert.equal(printed.match(/bicycle/g).length, 2);
});

test("an aborted stream ends", async () => {
  const stream = await client.chat.completions.create({ ...base, max_tokens: 500, stream: true });
  for await (const event of stream) if (event) break;
  assert.ok((await client.chat.completions.create(base)).choices[0].message.content);
});
