// What the server says and hears, as it says it. Times are seconds since 1970.

export type Role = "admin" | "user" | "guest";
export type Language = "en" | "zh";
export type Theme = "light" | "dark";

/** How answers are made. null: as the account's settings say, or in those, as the server chooses. */
export interface ChatSettings {
  model: string | null;
  instructions: string | null;
  temperature: number | null;
  top_p: number | null;
  max_tokens: number | null;
}

export interface Settings extends ChatSettings {
  language: Language | null;
  theme: Theme | null;
}

export interface User {
  id: string;
  name: string;
  role: Role;
  consent: boolean;
  settings: Settings;
  created_at: number;
}

export interface Model {
  id: string;
  context: number;
  fingerprint: string;
  created_at: number;
}

export interface Config {
  version: string;
  signup: boolean;
  guests: boolean;
  comparisons: boolean;
  consent_default: boolean;
  models: Model[];
  default_model: string;
  default_temperature: number;
  feedback_tags: Record<Vote, string[]>;
  user_keys: boolean;
  key_scopes: string[];
  limits: {
    message_chars: number;
    name_chars: number;
    password_min: number;
    password_chars: number;
    instructions_chars: number;
    title_chars: number;
    feedback_chars: number;
    max_tokens: number;
  };
}

export interface Session {
  user: User | null;
  csrf_token: string;
  config: Config;
}

export interface Summary {
  id: string;
  title: string; // "" until there is one
  archived: boolean;
  created_at: number;
  updated_at: number;
  snippet?: string | null;
  running: boolean;
}

export type Status = "done" | "running" | "stopped" | "interrupted" | "failed" | "blocked";
export type Vote = "up" | "down";

export interface Feedback {
  vote: Vote;
  tags: string[];
  text: string;
  updated_at: number;
}

export interface Message {
  id: string;
  conversation_id: string;
  parent_id: string | null;
  role: "user" | "assistant";
  content: string;
  status: Status;
  finish_reason: "stop" | "length" | null;
  can_continue: boolean;
  model: string | null;
  created_at: number;
  last_event: number;
  dropped: number; // how many of the oldest messages the model no longer read
  notice: string | null;
  feedback: Feedback | null;
  comparison_id: string | null;
}

export type Choice = "a" | "b" | "tie" | "both_bad";

export interface Comparison {
  id: string;
  parent_id: string;
  answers: string[]; // ids: A, then B
  choice: Choice | null;
  text: string;
  created_at: number;
}

export interface Share {
  token: string;
  path: string;
  message_id: string;
  created_at: number;
}

export interface Conversation extends Summary {
  consent: boolean | null; // null: as the account
  consent_effective: boolean;
  settings: ChatSettings;
  current_id: string | null;
  messages: Message[];
  comparisons: Comparison[];
  share: Share | null;
}

export interface Turn {
  question: Message | null;
  answers: Message[];
  comparison: Comparison | null;
  continued: boolean;
  conversation: Summary;
}

export interface Shared {
  title: string;
  created_at: number;
  messages: Pick<Message, "role" | "content" | "model" | "status" | "notice">[];
}

export interface Key {
  id: string;
  name: string;
  prefix: string;
  scopes: string[];
  user_id: string;
  user_name: string;
  created_at: number;
  last_used_at: number | null;
  expires_at: number | null;
  revoked_at: number | null;
}

/** One page of an operator's list. */
export interface Listed<Item> {
  items: Item[];
  total: number;
  page: number;
  limit: number;
}

export interface AdminUser {
  id: string;
  name: string;
  role: Role;
  disabled: boolean;
  consent: boolean;
  created_at: number;
  last_seen_at: number | null;
  conversations: number;
  messages: number;
  feedback: number;
}

export type Load = Record<string, number | string | null>;

export interface ServerLoad {
  answers: { running: number; waiting: number; places: number; at_once: number };
  tokens_per_second: number | null;
  ttft_seconds: { p50: number | null; p95: number | null };
  answer_seconds: { p50: number | null; p95: number | null };
  window_seconds: number;
  models: Record<string, Load>;
  signed_in: number;
  database: { kind: string; size_bytes: number | null };
  uptime_seconds: number;
}

export interface Rated {
  conversation_id: string;
  message_id: string;
  user_id: string;
  user_name: string;
  vote: Vote;
  tags: string[];
  text: string;
  model: string | null;
  question: string;
  answer: string;
  consent: boolean;
  created_at: number;
  updated_at: number;
}

export interface Compared {
  id: string;
  conversation_id: string;
  user_id: string;
  user_name: string;
  question: string;
  answers: { message_id: string; model: string | null; content: string }[];
  choice: Choice | null;
  text: string;
  consent: boolean;
  created_at: number;
  updated_at: number;
}

export interface Audited {
  id: string;
  at: number;
  actor_id: string | null;
  actor_name: string | null;
  action: string;
  target: string | null;
  details: Record<string, unknown>;
  source: string | null;
}

export interface AdminSettings {
  signup: boolean;
  guests: boolean;
  comparisons: boolean;
  comparison_share: number;
  consent_default: boolean;
  model_titles: boolean;
  moderate_api: boolean;
  user_keys: boolean;
  export_per_user: number;
  retention_guest_days: number;
  rates: Record<string, string>;
}
