// Requests to the server: JSON in, JSON out, with the session's token, and refusals as `Refusal`.

/** The server said no, or (status 0, code "unreachable") could not be asked. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

let token = "";

/** Remember the token that every request that changes something must carry. */
export function keepToken(fresh: string): void {
  token = fresh;
}

let onSignedOut = (): void => undefined;

/** Call `handler` when the server no longer knows who is here: the session has ended, or was ended elsewhere. */
export function whenSignedOut(handler: () => void): void {
  onSignedOut = handler;
}

type Method = "GET" | "POST" | "PATCH" | "PUT" | "DELETE";

/** Ask the server; a stale token is renewed once. Throws `Refusal`. */
export async function request<Answer>(method: Method, path: string, body?: unknown): Promise<Answer> {
  try {
    return await ask<Answer>(method, path, body);
  } catch (error) {
    if (error instanceof Refusal && error.code === "not_signed_in") onSignedOut();
    if (!(error instanceof Refusal) || error.code !== "csrf_failed") throw error;
    keepToken((await ask<{ csrf_token: string }>("GET", "/api/session")).csrf_token);
    return ask<Answer>(method, path, body);
  }
}

async function ask<Answer>(method: Method, path: string, body?: unknown): Promise<Answer> {
  const headers: Record<string, string> = method === "GET" ? {} : { "X-CSRF-Token": token };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? null : JSON.stringify(body) });
  } catch {
    throw new Refusal(0, "unreachable", "The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return (response.status === 204 ? undefined : await response.json()) as Answer;
}

async function refusal(response: Response): Promise<Refusal> {
  const wait = Number(response.headers.get("Retry-After")) || null;
  try {
    const { error } = (await response.json()) as { error: { code: string; message: string; retry_after?: number } };
    return new Refusal(response.status, error.code, error.message, error.retry_after ?? wait);
  } catch {
    return new Refusal(response.status, response.status >= 502 ? "unreachable" : "failed", response.statusText, wait);
  }
}

/** `?a=1&b=2` of what has a value, or nothing. */
export function query(values: Record<string, string | number | boolean | null | undefined>): string {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}
