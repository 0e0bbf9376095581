// The engine's API as the page knows it: calls with the token, answers without their envelope, one kind of error.
//
// Rule 1: the token lives in this object and nowhere else: no storage, no cookie, no address. When the object is ended
// the token is gone, and so is every call that is under way.
// Rule 2: whatever goes wrong is an ApiError with a code, the network included.

const PREFIX = "/api/v1";
const TIMEOUT_MS = 10_000;

/** What went wrong. `status` is 0 where there was no answer. */
export class ApiError extends Error {
  constructor(code, message, { status = 0, details = {}, requestId = null, retryAfterMs = 0 } = {}) {
    super(message);
    Object.assign(this, { code, status, details, requestId, retryAfterMs });
  }

  /** Whether this engine has no such call, which an older one may not. */
  get isMissing() {
    return (this.status === 404 && this.code === "NOT_FOUND") || this.status === 501;
  }
}

/** Calls on behalf of one token. */
export class Api {
  #token;
  #ended = new AbortController();
  #refused;

  /** refused(error): is called when the token counts no more. */
  constructor(token, refused) {
    this.#token = token;
    this.#refused = refused;
  }

  /** Forget the token and give up what is under way. */
  end() {
    this.#token = null;
    this.#ended.abort();
  }

  /** Read something: {data, meta}. */
  get(path, query = {}, options = {}) {
    return this.#call("GET", path, query, undefined, options);
  }

  /** Do something: {data, meta}. */
  post(path, body = undefined, query = {}, options = {}) {
    return this.#call("POST", path, query, body, options);
  }

  async #call(method, path, query, body, { timeoutMs = TIMEOUT_MS, root = false } = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
    const search = new URLSearchParams(given).toString();
    const url = (root ? "" : PREFIX) + path + (search ? `?${search}` : "");
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await this.#fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.any([this.#ended.signal, AbortSignal.timeout(timeoutMs)]),
    });
    const told = await answer.json().catch(() => null);
    if (told?.success) return { data: told.data, meta: told.meta };
    const error = failure(answer, told);
    if (error.status === 401 && this.#token !== null) this.#refused(error);
    throw error;
  }

  async #fetch(url, options) {
    try {
      return await fetch(url, options);
    } catch (error) {
      if (this.#ended.signal.aborted) throw new ApiError("SIGNED_OUT", "Signed out.");
      if (error.name === "TimeoutError") throw new ApiError("TIMEOUT", "The engine has not answered in time.");
      throw new ApiError("UNREACHABLE", "The engine cannot be reached.");
    }
  }
}

/** Write a part of a path; a symbol's slash becomes a dash. */
export function inPath(text) {
  return encodeURIComponent(text.replace("/", "-"));
}

function failure(answer, told) {
  const known = told?.error;
  return new ApiError(known?.code ?? "BAD_ANSWER", known?.message ?? `The server answered ${answer.status}.`, {
    status: answer.status,
    details: known?.details,
    requestId: told?.meta?.request_id ?? answer.headers.get("X-Request-ID"),
    retryAfterMs: 1000 * Number(answer.headers.get("Retry-After") ?? 0),
  });
}
