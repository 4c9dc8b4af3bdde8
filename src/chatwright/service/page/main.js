// The chat page: draws the conversation, asks the model, and keeps both in step.

import { Failure, answer, modelNames } from "./api.js";
import { elements, make } from "./markup.js";
import { load, save } from "./store.js";
import { fillIn, language, words } from "./words.js";

const $ = (id) => document.getElementById(id);
const state = load();
let running = null; // the AbortController of the answer under way
let failure = null; // the Failure of the last question

// ---- drawing ----

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  svg.ariaHidden = "true";
  return svg;
}

function button(name, label, onclick) {
  return make("button", { type: "button", className: "quiet small", onclick, ariaLabel: label, title: label }, icon(name));
}

/** Draw everything anew; while an answer streams, only `drawAnswer` is needed. */
function draw() {
  const { messages, dropped } = state;
  $("welcome").hidden = messages.length > 0;
  $("log").replaceChildren(...messages.map(drawMessage));
  if (dropped > 0 && dropped < messages.length) {
    $("log").children[dropped].before(make("p", { className: "forgotten" }, words.forgotten));
  }
  if (failure) $("log").append(drawFailure());
  else if (!running && messages.at(-1)?.role === "user") $("log").append(make("div", { className: "failure" }, retryButton()));
  drawChips($("followups"), running || failure ? [] : followups());
  $("log").ariaBusy = String(Boolean(running));
  $("stop").hidden = !running;
  $("send").hidden = Boolean(running);
  drawSend();
}

function drawMessage(message, index) {
  const own = message.role === "user";
  const article = make("article", { className: message.role, ariaLabel: own ? words.you : words.assistant });
  if (own) {
    article.append(make("div", { className: "text", dir: "auto" }, message.content));
    return article;
  }
  const last = index === state.messages.length - 1;
  const streaming = last && running;
  article.append(make("div", { className: "text" }, ...elements(message.content)));
  article.classList.toggle("streaming", Boolean(streaming));
  if (streaming && !message.content) article.firstChild.append(waitingDots());
  if (!streaming) article.append(drawActions(message, last));
  return article;
}

function waitingDots() {
  return make("span", { className: "dots", role: "img", ariaLabel: words.thinking }, make("i"), make("i"), make("i"));
}

function drawActions(message, last) {
  const actions = make("div", { className: "actions" });
  if (navigator.clipboard) {
    const copy = button("copy", words.copy, async () => {
      await navigator.clipboard.writeText(message.content);
      copy.replaceChildren(icon("done"));
      tell(words.copied);
      setTimeout(() => copy.replaceChildren(icon("copy")), 1500);
    });
    actions.append(copy);
  }
  if (last) actions.append(button("again", words.again, again));
  const note = { stopped: words.stopped, length: words.cut }[message.ended];
  if (note) actions.append(make("span", { className: "note" }, note));
  return actions;
}

function drawFailure() {
  const said = words[failure.kind];
  const detail = failure.kind === "failed" && failure.message ? ` ${failure.message}` : "";
  const retry = state.messages.at(-1)?.role === "user" ? [retryButton()] : [];
  return make("div", { className: "failure", role: "alert" }, make("p", {}, said + detail), ...retry);
}

function retryButton() {
  return make("button", { type: "button", className: "plain", onclick: again }, words.retry);
}

/** Show what has come of the answer under way, once a frame at most. */
function drawAnswer() {
  const article = $("log").lastElementChild;
  const { content } = state.messages.at(-1);
  if (content) article.firstChild.replaceChildren(...elements(content));
  if (atEnd) scrollToEnd();
}

function drawChips(list, questions) {
  list.replaceChildren(
    ...questions.map((text) => make("li", {}, make("button", { type: "button", onclick: () => ask(text) }, text))),
  );
  list.hidden = !questions.length;
}

/** What to ask after the first answer to a starter. */
function followups() {
  const [first, ...others] = state.messages;
  return others.length === 1 ? (words.starters.find(({ text }) => text === first.content)?.next ?? []) : [];
}

function drawSend() {
  $("send").disabled = !$("question").value.trim();
}

function drawTemperature() {
  const shown = state.temperature.toFixed(1);
  $("temperature").value = state.temperature;
  $("temperature-value").textContent = $("tuned").textContent = shown;
}

/** Say something to a screen reader. */
function tell(text) {
  $("status").textContent = text;
}

// ---- scrolling: the page follows the answer until the reader scrolls up ----

let atEnd = true;

function scrollToEnd() {
  $("main").scrollTo({ top: $("main").scrollHeight });
}

$("main").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = $("main");
  atEnd = scrollHeight - scrollTop - clientHeight < 48;
  $("down").hidden = atEnd;
});
$("down").addEventListener("click", scrollToEnd);

// ---- asking ----

function ask(text) {
  if (running || !text.trim()) return;
  state.messages.push({ role: "user", content: text.trim() });
  respond();
}

/** Answer the last question once more. */
function again() {
  if (running) return;
  if (state.messages.at(-1)?.role === "assistant") state.messages.pop();
  respond();
}

/** Stream an answer to the conversation as it stands. */
async function respond() {
  const messages = state.messages.map(({ role, content }) => ({ role, content }));
  const reply = { role: "assistant", content: "", ended: "stopped" };
  const controller = new AbortController();
  running = controller;
  failure = null;
  state.messages.push(reply);
  draw();
  scrollToEnd();
  let frame = null;
  try {
    await choosing.catch(() => (choosing = chooseModel()));
    const { model, temperature } = state;
    for await (const { text, dropped, ended } of answer({ model, messages, temperature, signal: controller.signal })) {
      if (dropped !== undefined) state.dropped = dropped;
      if (ended) reply.ended = ended;
      if (!text) continue;
      reply.content += text;
      frame ??= requestAnimationFrame(() => {
        frame = null;
        drawAnswer();
        save(state);
      });
    }
  } catch (error) {
    if (error.name !== "AbortError") failure = error instanceof Failure ? error : new Failure("failed", error.message);
  }
  cancelAnimationFrame(frame);
  if (running !== controller) return; // a new chat was begun meanwhile
  running = null;
  if (!reply.content && reply.ended === "stopped") state.messages.pop();
  if (failure?.kind === "tooLong") takeBack();
  save(state);
  draw();
  if (atEnd) scrollToEnd();
  if (!failure) tell(reply.ended === "stopped" ? words.stopped : words.finished);
}

/** Put the last question back into the composer, to be shortened. */
function takeBack() {
  $("question").value ||= state.messages.pop().content;
  fitQuestion();
}

function stop() {
  running?.abort();
}

function newChat() {
  stop();
  running = failure = null;
  state.messages = [];
  state.dropped = 0;
  save(state);
  draw();
  $("question").focus();
}

// ---- the composer ----

function fitQuestion() {
  const { style } = $("question");
  style.height = "auto";
  style.height = `${$("question").scrollHeight}px`;
  drawSend();
}

function sendQuestion() {
  const text = $("question").value;
  if (running || !text.trim()) return;
  $("question").value = "";
  fitQuestion();
  ask(text);
}

$("question").addEventListener("input", fitQuestion);
$("question").addEventListener("keydown", (event) => {
  // While an input method composes (Chinese, Japanese), Enter chooses a word. Safari says so only by key code 229.
  const composing = event.isComposing || event.keyCode === 229;
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  sendQuestion();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  sendQuestion();
});
$("stop").addEventListener("click", () => {
  stop();
  $("question").focus();
});
$("new").addEventListener("click", newChat);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) stop();
});

// ---- settings ----

$("temperature").addEventListener("input", () => {
  state.temperature = Number($("temperature").value);
  save(state);
  drawTemperature();
});
$("models").addEventListener("change", () => {
  state.model = $("models").value;
  save(state);
});

/** Take the model chosen before, if it is still there, else the first. */
async function chooseModel() {
  const names = await modelNames();
  if (!names.includes(state.model)) [state.model] = names;
  $("model").textContent = state.model;
  $("models").replaceChildren(...names.map((name) => make("option", { value: name, selected: name === state.model }, name)));
  $("models").hidden = names.length < 2;
  $("model").hidden = names.length > 1;
}

document.documentElement.lang = language;
fillIn(document);
drawChips($("starters"), words.starters.map(({ text }) => text));
drawTemperature();
draw();
scrollToEnd();
let choosing = chooseModel(); // a question waits for it, and tries again if it failed
choosing.catch((error) => {
  if (running) return;
  failure = error;
  draw();
});
