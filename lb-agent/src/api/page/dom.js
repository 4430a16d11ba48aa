// Elements, numbers and plots. Text gets into the page as text only: there is no markup made from it.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 59;
const HEIGHT = 20;

export const byId = (id) => document.getElementById(id);

/** A new element with attributes and children; a child may be a text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text if it is another: what is selected stays selected, and nobody is told twice. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** The same for a text that may be cut off where there is no room. */
export function sayWhole(element, text) {
  say(element, text);
  const title = String(text);
  if (element.title !== title) element.title = title;
}

/** Makes the children of `parent` those of `items`, in their order; elements are kept by key. */
export function sync(parent, items, key, create, update) {
  const before = (parent.known ??= new Map());
  const known = new Map();
  for (const item of items) {
    const name = key(item);
    known.set(name, before.get(name) ?? create(item));
  }
  // First, so that what stays need not be moved: an element that is moved loses the focus.
  for (const [name, element] of before) if (!known.has(name)) element.remove();
  parent.known = known;
  let place = parent.firstElementChild;
  for (const item of items) {
    const element = known.get(key(item));
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);

/** A rate: tenths while it is small. */
export const rate = (number) => (number < 10 ? tenth : whole).format(number);

/** What is nothing is quiet: zeroes must not drown the other numbers. */
export function figure(element, number, format = count) {
  say(element, format(number));
  element.classList.toggle("zero", number === 0);
}

/** `3m12s`: a span in milliseconds, to two units. */
export function span(millis) {
  let rest = Math.max(0, Math.floor(millis / 1000));
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    const number = Math.floor(rest / size);
    rest %= size;
    if (number > 0 || (unit === "s" && parts.length === 0)) parts.push(`${number}${unit}`);
  }
  return parts.slice(0, 2).join("");
}

export const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

/** `http_check` -> `http check`. */
export const words = (text) => String(text).replaceAll("_", " ");

/** How things stand: a shape, a colour and a word, so that none of them is needed. */
const SHAPES = {
  ok: ["●", "good"], serving: ["●", "good"],
  degraded: ["▲", "warn"], fail_open: ["◆", "bad"], down: ["■", "bad"],
  "not ready": ["■", "bad"], failing: ["■", "bad"], ejected: ["■", "bad"], "fail-open": ["◆", "bad"],
  draining: ["○", "quiet"], disabled: ["○", "quiet"], standby: ["○", "quiet"], "other-zone": ["○", "quiet"],
};

export function state(element, name) {
  if (element.dataset.state === name) return;
  element.dataset.state = name;
  const [shape, tone] = SHAPES[name] ?? ["○", "quiet"];
  element.className = `state ${tone}`;
  element.replaceChildren(make("span", { "aria-hidden": "true", class: "shape" }, shape), words(name));
}

export function newPlot() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "plot");
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

/** Draws numbers, oldest first; what is not a number is a gap at the beginning. */
export function plot(svg, values) {
  if (!svg.firstChild) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    for (const kind of ["area", "line"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", kind);
      svg.append(path);
    }
  }
  let most = 1;
  for (const value of values) if (value > most) most = value;
  const points = [];
  values.forEach((value, at) => {
    if (!Number.isNaN(value)) {
      const x = (at * WIDTH) / (values.length - 1);
      points.push(`${x.toFixed(1)} ${(HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1)}`);
    }
  });
  const [area, line] = svg.children;
  const path = points.length > 1 ? `M${points.join("L")}` : "";
  if (line.getAttribute("d") === path) return;
  line.setAttribute("d", path);
  const from = points[0]?.split(" ")[0];
  area.setAttribute("d", path && `${path}L${WIDTH} ${HEIGHT}L${from} ${HEIGHT}Z`);
}
