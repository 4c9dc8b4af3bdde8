// What the page says, in English and in Chinese; the browser's language chooses.

const english = {
  skip: "Skip to the question",
  model: "Model",
  settings: "Settings",
  newChat: "New chat",
  temperature: "Temperature",
  precise: "Precise",
  varied: "Varied",
  temperatureHint: "How freely the model picks its words. At 0 it always says what it thinks likeliest.",
  greeting: "What would you like to know?",
  about: "This assistant was trained from scratch, and it runs where this page comes from. What you write stays there.",
  conversation: "Conversation",
  question: "Your message",
  placeholder: "Ask anything",
  send: "Send",
  stop: "Stop the answer",
  down: "To the newest message",
  caution: "A small model makes mistakes.",
  keys: "Enter sends, Shift + Enter begins a line, Esc stops.",
  you: "You",
  assistant: "Assistant",
  copy: "Copy",
  copied: "Copied",
  again: "Another answer",
  retry: "Try again",
  stopped: "Stopped",
  cut: "Cut off: the answer reached its longest length",
  thinking: "The assistant is answering",
  finished: "The answer is complete.",
  forgotten: "The conversation has grown long; the model no longer reads what is above.",
  offline: "The server cannot be reached. Is chatwright still running?",
  busy: "The model is busy with other questions. Please try again in a moment.",
  tooLong: "That message is too long for this model. Please shorten it.",
  failed: "Something went wrong while answering.",
  broken: "The connection broke off before the answer was complete.",
  starters: [
    { text: "What is the capital of Japan?", next: ["And its currency?"] },
    { text: "你好" },
    { text: "What is the capital of Atlantis?" },
    { text: "Where is Mongolia?", next: ["What is its capital?"] },
  ],
};

const chinese = {
  ...english,
  skip: "跳到输入框",
  model: "模型",
  settings: "设置",
  newChat: "新对话",
  temperature: "温度",
  precise: "严谨",
  varied: "多变",
  temperatureHint: "模型选词的自由程度。为 0 时，它总是说最有把握的话。",
  greeting: "你想知道什么？",
  about: "这个助手从零开始训练，就运行在提供此页面的机器上。你写的内容不会离开那里。",
  conversation: "对话",
  question: "你的消息",
  placeholder: "随便问问",
  send: "发送",
  stop: "停止回答",
  down: "回到最新消息",
  caution: "小模型会出错。",
  keys: "Enter 发送，Shift + Enter 换行，Esc 停止。",
  you: "你",
  assistant: "助手",
  copy: "复制",
  copied: "已复制",
  again: "换一个回答",
  retry: "重试",
  stopped: "已停止",
  cut: "已截断：回答达到了最大长度",
  thinking: "助手正在回答",
  finished: "回答完毕。",
  forgotten: "对话太长了，模型已看不到以上内容。",
  offline: "无法连接服务器。chatwright 还在运行吗？",
  busy: "模型正忙着回答别的问题，请稍后再试。",
  tooLong: "这条消息对模型来说太长了，请缩短一些。",
  failed: "回答时出错了。",
  broken: "回答还没结束，连接就断开了。",
  starters: [
    { text: "你好" },
    { text: "What is the capital of Japan?", next: ["And its currency?"] },
    { text: "你是谁？" },
    { text: "What is the capital of Atlantis?" },
  ],
};

const inChinese = navigator.language.toLowerCase().startsWith("zh");

export const language = inChinese ? "zh-CN" : "en";
export const words = inChinese ? chinese : english;

/** Fill in every element that names its words: data-word (text), data-word-label, data-word-placeholder. */
export function fillIn(root) {
  for (const element of root.querySelectorAll("[data-word]")) element.textContent = words[element.dataset.word];
  for (const element of root.querySelectorAll("[data-word-label]")) {
    element.ariaLabel = element.title = words[element.dataset.wordLabel];
  }
  for (const element of root.querySelectorAll("[data-word-placeholder]")) {
    element.placeholder = words[element.dataset.wordPlaceholder];
  }
}
