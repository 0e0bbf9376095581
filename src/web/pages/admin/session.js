// Signing in: somebody pastes a token, the engine says whether it is an administrator's.
//
// Rule 1: only the engine decides. What a token says of itself is read to greet its owner, to tell when it ends and to
// leave out what this role cannot do anyway; it lets nobody in.
// Rule 2: the token is taken out of the field at once. It is not a password to the browser, which would offer to keep it.

import { Api } from "./api.js";
import { freshId, make, setText } from "./dom.js";

const PROBE = "/admin/actors";

/** Show the form; entered(api, claims, ended) is called with a good token. `ended.signal` is set by the caller. */
export function signInForm(message, entered) {
  const field = make("input", {
    id: freshId("token"),
    type: "text",
    class: "token",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "sign-in-trouble",
  });
  const trouble = make("p", { id: "sign-in-trouble", class: "trouble", role: "alert" }, message);
  const button = make("button", { class: "strong", type: "submit" }, "Sign in");
  const form = make(
    "form",
    { class: "sign-in-form", onsubmit: submit, novalidate: true },
    make("label", { for: field.id }, "Administrator’s token"),
    field,
    trouble,
    button,
  );
  let busy = false;

  async function submit(event) {
    event.preventDefault();
    const token = field.value.trim().replace(/^Bearer\s+/i, "");
    field.value = "";
    if (busy) return;
    if (!token) return refuse("Paste a token first.");
    if (/[^\x21-\x7e]/.test(token)) return refuse("This is not a token: it has characters that no token has.");
    busy = button.disabled = true;
    setText(trouble, "");
    const refusal = { listener: () => {} };
    const api = new Api(token, (error) => refusal.listener(error));
    try {
      await api.get(PROBE);
      entered(api, claimsOf(token), refusal);
    } catch (error) {
      api.end();
      refuse(sentenceOf(error, token));
    } finally {
      busy = button.disabled = false;
    }
  }

  function refuse(text) {
    setText(trouble, text);
    field.focus();
  }

  const page = make(
    "main",
    { class: "sign-in" },
    make("img", { src: "/admin/icon.svg", alt: "", width: "48", height: "48" }),
    make("h1", {}, "Trade engine operations"),
    form,
    make(
      "p",
      { class: "hint" },
      "Get one at the machine: ",
      make("code", {}, "tradeengine token YOU --role admin"),
      ". It stays in the memory of this page; a reload asks again.",
    ),
    make("p", { class: "hint" }, make("a", { href: "/docs" }, "API documentation")),
  );
  return { node: page, focus: () => field.focus() };
}

/** Read what a token says of its owner: {name, role, endsAtMs}. */
export function claimsOf(token) {
  try {
    const part = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(part), (character) => character.codePointAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return { name: String(claims.sub ?? "?"), role: String(claims.role ?? "user"), endsAtMs: Number(claims.exp ?? 0) * 1000 };
  } catch {
    return { name: "?", role: "user", endsAtMs: 0 };
  }
}

function sentenceOf(error, token) {
  if (error.status === 403 && error.code === "FORBIDDEN") {
    const { name, role } = claimsOf(token);
    return `This token is ${name}’s, with the role ${role}. This page is for administrators.`;
  }
  if (error.status === 401) return `The engine does not take this token. ${error.message}`;
  return error.message;
}
