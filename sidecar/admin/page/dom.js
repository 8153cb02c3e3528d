// Functions that update the document from data.  Texts are always inserted as text, so data of a policy, an upstream or
// a client is never parsed as HTML.

export const $ = (selector, within = document) => within.querySelector(selector);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value == null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/* Updates the children of `parent`, one for each item.  A child is reused for the same key, so that it keeps the focus;
   children without an item are removed. */
export function keyed(parent, items, key, create, update) {
  const known = (parent.keyed ??= new Map());
  const wanted = new Set();
  let before = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    wanted.add(name);
    let child = known.get(name);
    if (!child) known.set(name, (child = create(item)));
    update(child, item);
    if (child === before) before = before.nextElementSibling;
    else parent.insertBefore(child, before);
  }
  for (const [name, child] of known) {
    if (!wanted.has(name)) {
      child.remove();
      known.delete(name);
    }
  }
}

/* Updates the table of a section.  A column is {title, value, kind, tone}: `value(item, td)` returns the text of a cell,
   or updates the cell itself.  Without items, the text `empty` replaces the table. */
export function fill(section, columns, items, key, empty) {
  const table = $("table", section);
  const head = $("thead", table);
  if (!head.firstElementChild) {
    head.append(make("tr", {}, ...columns.map((c) => make("th", { scope: "col", class: c.kind }, c.title))));
  }
  let note = $(".empty", section);
  if (!note) section.append((note = make("p", { class: "empty" }, empty)));
  note.hidden = items.length > 0;
  table.hidden = items.length === 0;
  keyed(
    $("tbody", table), items, key,
    () => make("tr", {}, ...columns.map((c) => make("td", { class: c.kind, "data-title": c.title }))),
    (row, item) => columns.forEach((column, index) => cell(row.children[index], column, item)),
  );
}

export function cell(td, column, item) {
  const value = column.value(item, td);
  if (value !== undefined) setText(td, String(value ?? ""));
  setAttribute(td, "data-tone", column.tone?.(item));
}

/* Updates the badge of a cell. */
export function badge(td, text, tone) {
  let span = td.firstElementChild;
  if (!span) td.append((span = make("span", { class: "badge" })));
  setText(span, text);
  setAttribute(span, "data-tone", tone);
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/* Updates the bar of a cell; `share` is from 0 to 1.  It is SVG, because the Content-Security-Policy of the page forbids
   style attributes. */
export function bar(td, share, tone, label) {
  let holder = td.firstElementChild;
  if (!holder) {
    const picture = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    picture.append(svg("rect", { x: 0, y: 0, height: 10, width: 0 }));
    td.append((holder = make("span", { class: "bar", role: "img" }, picture)));
  }
  setAttribute($("rect", holder), "width", Math.round(100 * Math.min(1, Math.max(0, share))));
  setAttribute(holder, "data-tone", tone);
  setAttribute(holder, "aria-label", label);
}
