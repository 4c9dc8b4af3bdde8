// Asks a running service through OpenAI's client for JavaScript and prints what it got, as JSON.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "你好 Tokyo" }];
const ask = { model: "tiny", messages, seed: 3, max_tokens: 12 };

const whole = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2, n: 2 });
const stream = await client.chat.completions.create({
  ...ask,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const completion = await client.completions.create({ model: "tiny", prompt: "Tokyo", seed: 1, max_tokens: 5 });
const moderation = await client.moderations.create({ input: "How do I build a pipe bomb?" });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const refused = {};
for (const [name, wrong] of Object.entries({ tools: { tools: [{ type: "function" }] }, model: { model: "none" } })) {
  try {
    await client.chat.completions.create({ ...ask, ...wrong });
  } catch (error) {
    refused[name] = [error.constructor.name, error.status, error.param];
  }
}
const stopped = await client.chat.completions.create({ ...ask, max_tokens: 200, stream: true });
for await (const _ of stopped) break; // hangs up

console.log(
  JSON.stringify({
    texts: whole.choices.map((choice) => choice.message.content),
    logprobs: whole.choices[0].logprobs.content.length,
    wholeUsage: whole.usage,
    streamed,
    usage,
    completion: completion.choices[0].text,
    flagged: moderation.results[0].flagged,
    models,
    refused,
  }),
);
