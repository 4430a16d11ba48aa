// The list of services: filtered, sorted, a page of it at a time; keyboard.

import { LEVELS } from "./model.js";
import { byId, count, figure, make, newPlot, plot, rate, say, sayWhole, state, sync } from "./dom.js";

const PAGE = 50;

const ORDERS = {
  level: (a, b) => a.rank - b.rank || b.rate - a.rate,
  name: () => 0,
  usable: (a, b) => a.row.usable / (a.row.backends || 1) - b.row.usable / (b.row.backends || 1),
  rate: (a, b) => b.rate - a.rate,
  active: (a, b) => b.active - a.active,
  failed: (a, b) => b.failures - a.failures,
  refused: (a, b) => b.refusals - a.refusals,
  source: (a, b) => compare(a.row.source, b.row.source),
};

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

/** Numbers are sorted largest first, texts the other way round. */
const DESCENDING = new Set(["rate", "active", "failed", "refused"]);

export class List {
  page = 0;
  sort = "level";
  reversed = false;
  /** Services in the order in which they were shown last. */
  order = [];

  constructor(model, open) {
    this.model = model;
    this.open = open;
    this.table = byId("list");
    this.body = this.table.tBodies[0];
    this.filter = byId("filter");
    this.trouble = byId("trouble");
    this.listen();
  }

  listen() {
    const restart = () => {
      this.page = 0;
      this.show(true);
    };
    this.filter.addEventListener("input", restart);
    this.trouble.addEventListener("change", restart);
    byId("previous").addEventListener("click", () => this.turn(-1));
    byId("next").addEventListener("click", () => this.turn(1));
    for (const head of this.table.querySelectorAll("th[data-sort]")) {
      head.firstElementChild.addEventListener("click", () => {
        this.reversed = this.sort === head.dataset.sort && !this.reversed;
        this.sort = head.dataset.sort;
        restart();
      });
    }
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      // Text that was selected is not a click.
      if (row && String(getSelection()) === "") this.open(row.service.row.name);
    });
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const typing = event.target === this.filter;
    if (event.key === "/" && !typing) this.filter.focus();
    else if (event.key === "Escape" && typing && this.filter.value) {
      this.filter.value = "";
      this.page = 0;
      this.show(true);
    } else if (event.key === "ArrowDown" && (typing || this.body.contains(event.target))) this.step(1);
    else if (event.key === "ArrowUp" && this.body.contains(event.target)) this.step(-1);
    else if (event.key === "PageDown" && !event.target.closest("aside")) this.turn(1);
    else if (event.key === "PageUp" && !event.target.closest("aside")) this.turn(-1);
    else if (event.key === "Enter" && typing) this.step(1);
    else return;
    event.preventDefault();
  }

  /** Moves the focus by a row; up from the first it goes to the filter. */
  step(by) {
    const row = document.activeElement.closest("tbody tr");
    const to = row ? (by > 0 ? row.nextElementSibling : row.previousElementSibling) : this.body.firstElementChild;
    if (to) to.querySelector("button").focus();
    else if (by < 0) this.filter.focus();
  }

  turn(by) {
    const inside = this.body.contains(document.activeElement);
    const page = Math.min(Math.max(0, this.page + by), this.pages - 1);
    if (page === this.page) return;
    this.page = page;
    this.show(true);
    if (inside) this.body.querySelector("button")?.focus();
  }

  focus(name) {
    const row = [...this.body.rows].find((row) => row.service.row.name === name);
    (row?.querySelector("button") ?? this.filter).focus();
  }

  /** Filters and sorts. While somebody points at the list or is in it, nothing moves away below them. */
  arrange(afresh) {
    const terms = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (service) =>
      (!this.trouble.checked || service.row.level !== "ok") && terms.every((term) => service.text.includes(term));
    const found = [...this.model.services.values()].filter(wanted);
    this.held = !afresh && (this.body.matches(":hover") || this.body.contains(document.activeElement));
    if (this.held) {
      const places = new Map(this.order.map((name, at) => [name, at]));
      const place = (service) => places.get(service.row.name) ?? places.size;
      found.sort((a, b) => place(a) - place(b) || compare(a.row.name, b.row.name));
    } else {
      const order = ORDERS[this.sort];
      const turn = this.reversed ? -1 : 1;
      const byName = this.sort === "name" ? turn : 1;
      found.sort((a, b) => turn * order(a, b) || byName * compare(a.row.name, b.row.name));
    }
    this.order = found.map((service) => service.row.name);
    return found;
  }

  get pages() {
    return Math.max(1, Math.ceil(this.order.length / PAGE));
  }

  /** Shows the list as it is now; `afresh` when it is somebody's wish. */
  show(afresh = false) {
    const found = this.arrange(afresh);
    this.page = Math.min(this.page, this.pages - 1);
    const first = this.page * PAGE;
    const shown = found.slice(first, first + PAGE);
    sync(this.body, shown, (service) => service.row.name, newRow, updateRow);
    for (const row of this.body.rows) row.classList.toggle("open", row.service.row.name === this.opened);
    const { size } = this.model.services;
    const range = found.length > PAGE ? `${count(first + 1)}–${count(first + shown.length)} of ` : "";
    const of = found.length === size ? "" : ` of ${count(size)}`;
    say(byId("range"), `${range}${count(found.length)}${of}`);
    byId("previous").disabled = this.page === 0;
    byId("next").disabled = this.page >= this.pages - 1;
    say(byId("troubled"), count(this.model.total.troubled));
    byId("empty").hidden = shown.length > 0;
    say(byId("empty"), size === 0 ? "No services yet." : "Nothing fits. Esc in the filter clears it.");
    for (const head of this.table.querySelectorAll("th[data-sort]")) {
      const descending = DESCENDING.has(head.dataset.sort) !== this.reversed;
      const order = head.dataset.sort === this.sort ? (descending ? "descending" : "ascending") : "none";
      if (head.getAttribute("aria-sort") !== order) head.setAttribute("aria-sort", order);
    }
  }

  mark(name) {
    this.opened = name;
    for (const row of this.body.rows) row.classList.toggle("open", row.service.row.name === name);
  }
}

function newRow() {
  const row = document.createElement("tr");
  const cell = (kind, ...children) => make("td", kind ? { class: kind } : {}, ...children);
  const name = make("th", { scope: "row" }, make("button", { type: "button", class: "name" }));
  const connects = cell("number rate", newPlot(), make("span"));
  row.append(cell("", make("span"), make("span", { class: "why" })), name, cell("extra mono"), cell("number"), connects,
    cell("number"), cell("number"), cell("number extra"), cell("extra origin quiet"));
  return row;
}

function updateRow(element, service) {
  element.service = service;
  const [level, , frontends, backends, connects, active, failed, refused, source] = element.cells;
  const { row } = service;
  state(level.firstElementChild, LEVELS.includes(row.level) ? row.level : "down");
  sayWhole(level.lastElementChild, row.why);
  sayWhole(element.cells[1].firstElementChild, row.name);
  const more = row.dialled - row.frontends.length;
  sayWhole(frontends, row.frontends.join(" ") + (more > 0 ? ` +${more}` : ""));
  say(backends, `${count(row.usable)}/${count(row.backends)}`);
  backends.classList.toggle("short", row.usable < row.backends);
  plot(connects.firstElementChild, service.connects.values);
  figure(connects.lastElementChild, service.rate, rate);
  figure(active, service.active);
  figure(failed, service.failures);
  failed.classList.toggle("bad", service.failures > 0);
  figure(refused, service.refusals);
  refused.classList.toggle("bad", service.refusals > 0);
  sayWhole(source, row.source);
}
