// The AI SDK with each provider that speaks one of our protocols: text, stream, image, object, tools, errors.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { suite, test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const noKey = "none"; // the client insists on one, the service does not
const baseURL = `${process.env.CLIENTS_ADDRESS}/v1`;
const image = readFileSync(process.env.CLIENTS_IMAGE);
const prompt = "Напиши объявление о продаже велосипеда.";
const Listing = z.object({ title: z.string().max(20), price: z.number().int().min(1).max(99999) });
const openai = createOpenAI({ baseURL, apiKey: noKey });
const anthropic = createAnthropic({ baseURL, apiKey: noKey });
const compatible = createOpenAICompatible({
  baseURL, name: "avito", apiKey: noKey, supportsStructuredOutputs: true, includeUsage: true,
});

// Each takes the name of a model; `options` go with every request.
const providers = {
  "openai chat": { model: (name) => openai.chat(name) },
  "openai responses, not stored": { model: (name) => openai.responses(name), options: { openai: { store: false } } },
  "openai responses, stored": { model: (name) => openai.responses(name), options: { openai: { store: true } } },
  "openai-compatible": { model: (name) => compatible.chatModel(name) },
  anthropic: { model: (name) => anthropic(name) },
};

function weather() {
  const asked = [];
  const execute = async ({ city }) => (asked.push(city), { city, degrees: 20 });
  const inputSchema = z.object({ city: z.string().max(12) });
  return { asked, tools: { get_weather: tool({ description: "Tells the weather of a city.", inputSchema, execute }) } };
}

// The first step calls, the second answers: a model of the demo's size would not choose so by itself.
const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });

for (const [name, { model, options }] of Object.entries(providers)) {
  const fields = { model: model("avibe"), maxRetries: 0, maxOutputTokens: 32, providerOptions: options };
  suite(name, () => {
    test("a text and its usage", async () => {
      const answer = await generateText({ ...fields, instructions: "Be brief.", prompt });
      assert.ok(answer.text);
      assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0);
      assert.ok(["stop", "length"].includes(answer.finishReason));
    });

    test("a stream equals the text", async () => {
      const whole = await generateText({ ...fields, temperature: 0, prompt });
      const stream = streamText({ ...fields, temperature: 0, prompt });
      const pieces = [];
      for await (const piece of stream.textStream) pieces.push(piece);
      assert.ok(pieces.length > 1);
      assert.equal(pieces.join(""), whole.text);
      assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
    });

    test("an image", async () => {
      const content = [{ type: "text", text: "What?" }, { type: "file", mediaType: "image/png", data: image }];
      const answer = await generateText({ ...fields, model: model("avision"), messages: [{ role: "user", content }] });
      assert.ok(answer.text);
    });

    test("an object, whole and streamed", async () => {
      const shaped = { ...fields, maxOutputTokens: 200, output: Output.object({ schema: Listing }), prompt };
      Listing.parse((await generateText(shaped)).output);
      const stream = streamText(shaped);
      let partial;
      for await (partial of stream.partialOutputStream);
      Listing.parse(partial);
      Listing.parse(await stream.output);
    });

    test("a choice of words", async () => {
      const words = Output.choice({ options: ["new", "used"] });
      assert.ok(["new", "used"].includes((await generateText({ ...fields, maxOutputTokens: 200, output: words, prompt })).output));
    });

    test("a round with a tool, in one call", async () => {
      const { asked, tools } = weather();
      const answer = await generateText({
        ...fields, maxOutputTokens: 200, prompt, tools, prepareStep, stopWhen: stepCountIs(2),
      });
      assert.equal(answer.steps.length, 2);
      assert.ok(asked.length > 0);
      assert.equal(answer.steps[0].finishReason, "tool-calls");
    });

    test("a round with a tool, streamed", async () => {
      const { asked, tools } = weather();
      const stream = streamText({
        ...fields, maxOutputTokens: 200, prompt, tools, prepareStep, stopWhen: stepCountIs(2),
      });
      const kinds = [];
      for await (const part of stream.fullStream) {
        if (part.type === "error") throw part.error;
        kinds.push(part.type);
      }
      assert.ok(kinds.includes("tool-input-delta") && kinds.includes("tool-result"));
      assert.ok(asked.length > 0);
    });

    test("a conversation of the library's own messages", async () => {
      const first = await generateText({ ...fields, messages: [{ role: "user", content: prompt }] });
      const messages = [{ role: "user", content: prompt }, ...first.response.messages, { role: "user", content: "?" }];
      if (options?.openai.store) await assert.rejects(generateText({ ...fields, messages }), /store: false/);
      else assert.ok((await generateText({ ...fields, messages })).text);
    });

    test("errors are the library's, with our sentence", async () => {
      await assert.rejects(generateText({ ...fields, model: model("gpt-4o"), prompt }), (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 404);
        return /no model of this name/.test(error.message);
      });
      await assert.rejects(generateText({ ...fields, prompt: "слово ".repeat(4000) }), (error) =>
        APICallError.isInstance(error) && error.statusCode === 400 && !error.isRetryable);
    });
  });
}

test("responses without a word on storing name the remedy at the second turn", async () => {
  const fields = { model: openai.responses("avibe"), maxRetries: 0, maxOutputTokens: 16 };
  const first = await generateText({ ...fields, messages: [{ role: "user", content: prompt }] });
  const messages = [{ role: "user", content: prompt }, ...first.response.messages, { role: "user", content: "?" }];
  await assert.rejects(generateText({ ...fields, messages }), /store/);
});
