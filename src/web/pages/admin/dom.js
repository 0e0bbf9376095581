// Nodes: how everything on the page is made and changed.
//
// Rule 1: what comes from the engine or from people is text. Nothing here, or anywhere on the page, parses markup; the
// browser is told so too (trusted types in the page's Content-Security-Policy).
// Rule 2: nodes are changed in place and only where something changed, so that focus, selection and scrolling stay.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. attributes: `on…` is a listener; null, undefined and false are left out; true is an empty one. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an element of a drawing. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else setAttribute(node, name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Write a text where it is another one. */
export function setText(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Write, or take away, an attribute where it is another one. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const wanted = value === true ? "" : String(value);
  if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
}

/**
 * Let a parent have one child for each item, in order; children of items that stay are kept.
 *
 * create(item) makes a child, update(child, item) brings it up to date; both are called for a new one.
 */
export function keyed(parent, items, keyOf, create, update) {
  const known = parent.keyedChildren ?? (parent.keyedChildren = new Map());
  const kept = new Map();
  let place = null;
  for (const item of items) {
    const key = keyOf(item);
    const child = known.get(key) ?? create(item);
    update(child, item);
    kept.set(key, child);
    const next = place === null ? parent.firstChild : place.nextSibling;
    if (child !== next) parent.insertBefore(child, next);
    place = child;
  }
  for (const [key, child] of known) if (!kept.has(key)) child.remove();
  parent.keyedChildren = kept;
}

/** Say something to those who hear the page: politely, once. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  // The same words twice would be heard once: a region that does not change is not read again.
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

let names = 0;

/** Give an id that nothing else on the page has. */
export function freshId(prefix) {
  names += 1;
  return `${prefix}-${names}`;
}
