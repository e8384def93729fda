// Calls a running service with the types that openapi-typescript makes; see generated.sh. What does not fit them, tsc refuses.
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

// The routes that generate answer in JSON or, if asked to, as a stream of events: here in JSON.
const client = createClient<paths, "application/json">({ baseUrl: process.argv[2] });
const ask = "Write a listing for: used bicycle";
const image = readFileSync("red-square.png");
const url = `data:image/png;base64,${image.toString("base64")}`;

function shown(call: string, text: unknown, error?: unknown): void {
  if (error !== undefined || !text) throw new Error(`${call}: ${JSON.stringify(error)}`);
  console.log(`TypeScript: ${call}: ${JSON.stringify(text).slice(0, 60)}`);
}

const generated = await client.POST("/api/v1/text/generate", { body: { prompt: ask, max_tokens: 40 } });
shown("generate", generated.data?.data.text, generated.error);

const seen = await client.POST("/api/v1/image/analyze", {
  body: { image: "", prompt: "What is in it?" },
  bodySerializer: ({ prompt }) => {
    const form = new FormData();
    form.set("prompt", prompt);
    form.set("image", new Blob([image]), "red-square.png");
    return form;
  },
});
shown("image, a form", seen.data?.data.text, seen.error);

const chat: components["schemas"]["ChatCompletionRequest"] = {
  model: "avision",
  max_tokens: 40,
  messages: [
    { role: "system", content: "Be brief." },
    {
      role: "user",
      content: [
        { type: "image_url", image_url: { url } },
        { type: "text", text: "What is in it?" },
      ],
    },
  ],
};
const answered = await client.POST("/v1/chat/completions", { body: chat });
shown("chat, an image", answered.data?.choices[0].message.content, answered.error);

const response = await client.POST("/v1/responses", { body: { model: "avibe", input: ask, max_output_tokens: 40 } });
const item = response.data?.output[0];
shown("responses", item?.type === "message" && item.content[0].text, response.error);

const said = await client.POST("/v1/messages", {
  body: { model: "avibe", max_tokens: 40, messages: [{ role: "user", content: ask }] },
});
const block = said.data?.content[0];
shown("messages", block?.type === "text" && block.text, said.error);

const listed = await client.GET("/v1/models/{model_id}", { params: { path: { model_id: "avibe" } } });
shown("a model", listed.data?.root, listed.error);

const refused = await client.POST("/api/v1/text/generate", { body: { prompt: "" } });
shown("a refusal", refused.error?.message);
