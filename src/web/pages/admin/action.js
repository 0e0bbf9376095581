// An action: a dialog that asks why, shows what would happen (a dry run), does it, and shows what has happened.
//
// Rule 1: what is done is what was shown: after any change of what was written, also while the engine is looking, the dry
// run is asked for again.
// Rule 2: the whole way can be gone by the keyboard: reason, Enter, Enter. Escape leaves without a trace, but not while
// the engine is doing it: then the answer is waited for, and shown.
// Rule 3: what is wrong with a field is said at the field, which gets the focus.

import { announce, freshId, make, setAttribute, setText } from "./dom.js";
import { plain, words } from "./format.js";

const REASON_CHARACTERS_MAX = 200;
const MANY = 5;

/**
 * Open the dialog.
 *
 * wanted: {title, lead, path, verb, tone, fields, hasReason, reasonHint, bodyOf(values), preview(data), outcome(data),
 * done()}
 * fields: [{name, label, value, hint, required, inputmode, options}]; preview and outcome give lists of [term, text].
 */
export function openAction({ api }, wanted) {
  const { title, lead, path, verb, tone = "bad", hasReason = true, bodyOf = (values) => values } = wanted;
  const fields = [...(wanted.fields ?? []), ...(hasReason ? [reasonField(wanted.reasonHint)] : [])].map(madeOf);
  const heading = make("h2", { id: freshId("title") }, title);
  const trouble = make("p", { class: "trouble", role: "alert" });
  const told = make("dl", { class: "facts told", "aria-live": "polite" });
  const toldTitle = make("h3", {});
  const panel = make("section", { class: "outcome", hidden: true, tabindex: "-1" }, toldTitle, told);
  const away = make("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel");
  const go = make("button", { type: "submit", class: "strong" });
  const form = make("form", { novalidate: true, onsubmit: submit }, ...fields.map(rowOf), trouble, panel, make("div", { class: "buttons" }, away, go));
  const dialog = make("dialog", { class: fields.length > MANY ? "sheet wide" : "sheet", "data-tone": tone, "aria-labelledby": heading.id }, heading, make("p", { class: "lead" }, lead), form);
  let step = "compose";
  let busy = false;
  let changes = 0;

  function enter(next) {
    step = next;
    setText(go, next === "compose" ? "Show what would happen" : verb);
    setAttribute(go, "data-tone", next === "ready" ? tone : null);
    setAttribute(dialog, "data-step", next);
  }

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    if (step === "done") return dialog.close();
    const missing = fields.filter((field) => field.required && !field.input.value.trim());
    fields.forEach((field) => blame(field, missing.includes(field) ? `${field.label} is needed.` : ""));
    setText(trouble, missing.map((field) => `${field.label} is needed.`).join(" "));
    if (missing.length) return missing[0].input.focus();
    setBusy(true);
    const asked = changes;
    const values = Object.fromEntries(fields.map((field) => [field.name, field.input.value.trim()]));
    const isTry = step === "compose";
    try {
      const answer = await api.post(path, bodyOf(values), isTry ? { dry_run: "true" } : {}, { timeoutMs: 30_000 });
      setBusy(false);
      if (!isTry) showOutcome(answer);
      else if (asked === changes) showPreview(answer.data);
    } catch (error) {
      setBusy(false);
      showTrouble(error);
    }
  }

  function showTrouble(error) {
    const { field, fields: others = [] } = error.details ?? {};
    const blamed = fields.filter(({ name }) => name === field || others.includes(name));
    blamed.forEach((each) => blame(each, each.name === field ? error.message : "It is there with another value."));
    setText(trouble, troubleOf(error));
    (blamed[0]?.input ?? fields[0]?.input ?? go).focus();
  }

  function showPreview(data) {
    show("This would happen", (wanted.preview ?? wanted.outcome ?? facts)(data));
    enter("ready");
    go.focus();
  }

  function showOutcome({ data, meta }) {
    const lines = (wanted.outcome ?? facts)(data);
    show("Done", [...lines, ["Request", meta.request_id]]);
    announce(`${title}: done. ${lines.map(([term, text]) => `${term} ${text}`).join(", ")}.`);
    enter("done");
    for (const field of fields) field.input.disabled = true;
    away.hidden = true;
    setText(go, "Close");
    go.focus();
    wanted.done?.(data);
  }

  function show(name, lines) {
    setText(toldTitle, name);
    told.replaceChildren(...lines.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, plain(text)))));
    panel.hidden = false;
  }

  function setBusy(is) {
    busy = is;
    go.disabled = away.disabled = is;
    setAttribute(form, "aria-busy", is);
  }

  for (const field of fields) {
    field.input.addEventListener("input", () => {
      changes += 1;
      blame(field, "");
      if (step !== "ready") return;
      panel.hidden = true;
      enter("compose");
    });
  }
  dialog.addEventListener("cancel", (event) => busy && event.preventDefault());
  dialog.addEventListener("close", () => dialog.remove());
  enter(step);
  document.body.append(dialog);
  dialog.showModal();
  (fields[0]?.input ?? go).focus();
}

/** Every field of an answer that says something, for actions that do not say what matters. */
export function facts(data) {
  return Object.entries(data ?? {})
    .filter(([name, value]) => value !== null && name !== "dry_run")
    .map(([name, value]) => [words(name), plain(value)]);
}

function troubleOf(error) {
  const field = error.details?.field ? ` (${error.details.field})` : "";
  const request = error.requestId ? ` Request ${error.requestId}.` : "";
  return `${error.code}${field}: ${error.message}${request}`;
}

function reasonField(hint = "It is kept in the audit log.") {
  return { name: "reason", label: "Reason", required: true, hint, maxlength: REASON_CHARACTERS_MAX };
}

/** A field with its input and the line that says what is wrong with it. */
function madeOf(field) {
  const input = inputOf(field);
  return { ...field, input, wrong: make("p", { id: `${input.id}-wrong`, class: "trouble" }) };
}

/** Say at a field what is wrong with it; nothing: it is well. */
function blame({ input, hint, wrong }, text) {
  setText(wrong, text);
  setAttribute(input, "aria-invalid", text ? "true" : null);
  const told = [text && wrong.id, hint && `${input.id}-hint`].filter(Boolean).join(" ");
  setAttribute(input, "aria-describedby", told || null);
}

function inputOf(field) {
  const options = field.options?.map((option) => make("option", { value: option }, option));
  const id = freshId(field.name);
  const attributes = { id, name: field.name, autocomplete: "off", "aria-required": field.required ? "true" : null, "aria-describedby": field.hint ? `${id}-hint` : null };
  if (options) return make("select", attributes, ...options);
  const made = make("input", { ...attributes, type: "text", maxlength: field.maxlength, inputmode: field.inputmode, spellcheck: field.name === "reason" ? null : "false" });
  made.value = field.value ?? "";
  return made;
}

function rowOf({ label, hint, input, wrong }) {
  return make("div", { class: "field" }, make("label", { for: input.id }, label), input, wrong, hint ? make("p", { id: `${input.id}-hint`, class: "hint" }, hint) : null);
}
