// Every question that the page has for the server, by name.
import { query, request } from "./http";
import type * as T from "./types";

const conversation = (id: string) => `/api/conversations/${encodeURIComponent(id)}`;
const message = (id: string, of: string) => `${conversation(of)}/messages/${encodeURIComponent(id)}`;
const admin = (path: string) => `/api/admin/${path}`;

export type Turning = Partial<T.ChatSettings>;

export const session = () => request<T.Session>("GET", "/api/session");
export const signUp = (name: string, password: string) => request<unknown>("POST", "/api/signup", { name, password });
export const logIn = (name: string, password: string) => request<T.Session>("POST", "/api/login", { name, password });
export const beGuest = () => request<T.Session>("POST", "/api/guest", {});
export const logOut = (everywhere = false) => request<T.Session>("POST", "/api/logout", { everywhere });
export const changeAccount = (change: { settings?: Partial<T.Settings>; consent?: boolean }) =>
  request<T.Session>("PATCH", "/api/account", change);
export const changePassword = (current: string, fresh: string) =>
  request<T.Session>("POST", "/api/account/password", { current, new: fresh });
export const deleteAccount = (password: string | null) =>
  request<T.Session>("POST", "/api/account/delete", password === null ? {} : { password });
export const EXPORT_PATH = "/api/account/export";

export const conversations = (search: string, archived: boolean, cursor: string | null) =>
  request<{ items: T.Summary[]; next_cursor: string | null }>(
    "GET",
    `/api/conversations${query({ search, archived, limit: 50, cursor })}`,
  );
export const createConversation = (given: { settings?: Turning; consent?: boolean | null }) =>
  request<T.Conversation>("POST", "/api/conversations", given);
export const readConversation = (id: string) => request<T.Conversation>("GET", conversation(id));
export const changeConversation = (
  id: string,
  change: Partial<Pick<T.Conversation, "title" | "archived" | "consent" | "current_id">> & { settings?: Turning },
) => request<T.Conversation>("PATCH", conversation(id), change);
export const deleteConversation = (id: string) => request<void>("DELETE", conversation(id));
export const deleteConversations = () => request<void>("DELETE", "/api/conversations");

export const send = (
  id: string,
  given: { content: string; parent_id: string | null; key: string; compare?: boolean },
) => request<T.Turn>("POST", `${conversation(id)}/messages`, given);
export const regenerate = (of: string, id: string) => request<T.Turn>("POST", `${message(id, of)}/regenerate`, {});
export const goOn = (of: string, id: string) => request<T.Turn>("POST", `${message(id, of)}/continue`, {});
export const stop = (of: string, id: string) => request<T.Message>("POST", `${message(id, of)}/stop`, {});
export const eventsPath = (of: string, id: string, after: number) => `${message(id, of)}/events${query({ after })}`;
export const rate = (of: string, id: string, feedback: Pick<T.Feedback, "vote" | "tags" | "text">) =>
  request<T.Message>("PUT", `${message(id, of)}/feedback`, feedback);
export const unrate = (of: string, id: string) => request<T.Message>("DELETE", `${message(id, of)}/feedback`);
export const choose = (of: string, id: string, choice: T.Choice, text: string) =>
  request<T.Comparison>("PUT", `${conversation(of)}/comparisons/${encodeURIComponent(id)}`, { choice, text });
export const share = (id: string, leaf: string) =>
  request<T.Share>("POST", `${conversation(id)}/share`, { message_id: leaf });
export const unshare = (id: string) => request<void>("DELETE", `${conversation(id)}/share`);
export const shared = (token: string) => request<T.Shared>("GET", `/api/shared/${encodeURIComponent(token)}`);

export interface NewKey {
  name: string;
  scopes: string[];
  expires_at: number | null;
}
export const keys = () => request<{ items: T.Key[] }>("GET", "/api/keys");
export const createKey = (given: NewKey) => request<{ key: T.Key; secret: string }>("POST", "/api/keys", given);
export const revokeKey = (id: string) => request<T.Key>("DELETE", `/api/keys/${encodeURIComponent(id)}`);

type Filters = Record<string, string | number | boolean | null | undefined>;
export const users = (filters: Filters) => request<T.Listed<T.AdminUser>>("GET", admin(`users${query(filters)}`));
export const changeUser = (id: string, change: { role?: T.Role; disabled?: boolean }) =>
  request<T.AdminUser>("PATCH", admin(`users/${encodeURIComponent(id)}`), change);
export const resetPassword = (id: string) =>
  request<{ password: string }>("POST", admin(`users/${encodeURIComponent(id)}/password`), {});
export const deleteUser = (id: string) => request<void>("DELETE", admin(`users/${encodeURIComponent(id)}`));
export const modelLoads = () => request<{ items: (T.Model & { load: T.Load })[] }>("GET", admin("models"));
export const load = () => request<T.ServerLoad>("GET", admin("load"));
export const feedback = (filters: Filters) =>
  request<T.Listed<T.Rated> & { counts: Record<T.Vote, number> }>("GET", admin(`feedback${query(filters)}`));
export const comparisons = (filters: Filters) =>
  request<T.Listed<T.Compared>>("GET", admin(`comparisons${query(filters)}`));
export const anyConversation = (id: string) =>
  request<T.Conversation & { user: { id: string; name: string } }>("GET", admin(`conversations/${encodeURIComponent(id)}`));
export const exportPath = (kind: string, filters: Filters) => admin(`export/${kind}${query(filters)}`);
export const audit = (filters: Filters) => request<T.Listed<T.Audited>>("GET", admin(`audit${query(filters)}`));
export const adminSettings = () => request<T.AdminSettings>("GET", admin("settings"));
export const changeSettings = (change: Partial<T.AdminSettings>) =>
  request<T.AdminSettings>("PATCH", admin("settings"), change);
export const allKeys = (filters: Filters) => request<T.Listed<T.Key>>("GET", admin(`keys${query(filters)}`));
export const createAnyKey = (given: NewKey) => request<{ key: T.Key; secret: string }>("POST", admin("keys"), given);
export const revokeAnyKey = (id: string) => request<T.Key>("DELETE", admin(`keys/${encodeURIComponent(id)}`));
