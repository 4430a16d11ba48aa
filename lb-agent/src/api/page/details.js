// One service with all that belongs to it, asked for as long as it is open.

import { Rates } from "./model.js";
import { byId, count, figure, make, newPlot, plot, rate, say, sayWhole, span, state, sync, words } from "./dom.js";

/** Backends that are shown, those in trouble first. */
const MOST = 200;
const TROUBLED = new Set(["failing", "ejected", "fail-open"]);

export class Details {
  name = null;
  /** Rates by address, while it is open. */
  rates = new Map();
  asking = false;

  constructor(model, closed) {
    this.model = model;
    this.closed = closed;
    this.section = byId("details");
    byId("close").addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.name !== null && !event.defaultPrevented) this.close();
    });
  }

  async open(name) {
    this.name = name;
    this.rates.clear();
    this.at = null;
    say(byId("details-title"), name);
    say(byId("details-state"), "");
    for (const id of ["details-frontends", "details-backends"]) sync(byId(id).tBodies[0], [], String);
    this.section.hidden = false;
    document.body.classList.add("detailed");
    this.asking = false;
    await this.refresh();
    if (this.name === name) byId("details-title").focus();
  }

  close() {
    const { name } = this;
    this.name = null;
    this.section.hidden = true;
    document.body.classList.remove("detailed");
    this.closed(name);
  }

  /** Asks again; called whenever there is something new. */
  async refresh() {
    const { name } = this;
    if (name === null || this.asking) return;
    this.asking = true;
    try {
      const answer = await fetch(`v1/details?name=${encodeURIComponent(name)}`);
      const told = await answer.json();
      if (this.name !== name) return;
      if (answer.ok) this.show(told);
      else say(byId("details-state"), told.error);
    } catch {
      // The stream tells of it, and of its end.
    } finally {
      if (this.name === name) this.asking = false;
    }
  }

  show(told) {
    const now = performance.now();
    const seconds = this.at === null ? 0 : (now - this.at) / 1000;
    this.at = now;
    const head = byId("details-state");
    if (head.childElementCount !== 2) head.replaceChildren(make("span"), make("span", { class: "why" }));
    state(head.firstElementChild, told.level);
    say(head.lastElementChild, told.why);
    const { affinity } = told;
    facts(byId("details-facts"), [
      ["Source", told.source],
      ["Policy", words(told.policy)],
      ["Affinity", affinity ? `${affinity.client} for ${span(affinity.timeout_seconds * 1000)}` : "none"],
      ["Without backends", told.no_backend],
      ["Connects", count(told.counters.connects)],
      ["No backend", count(told.counters.no_backend)],
      ["Untracked", count(told.counters.untracked)],
    ]);
    sync(byId("details-frontends").tBodies[0], told.frontends, (f) => f.frontend, newFrontend, updateFrontend);
    const backends = told.backends.toSorted((a, b) => TROUBLED.has(b.why) - TROUBLED.has(a.why));
    say(byId("details-more"), backends.length > MOST ? `${MOST} of ${count(backends.length)}` : "");
    for (const backend of backends) {
      const rates = this.rates.get(backend.address) ?? new Rates();
      rates.see(backend.connects, seconds);
      this.rates.set(backend.address, rates);
    }
    const update = (element, backend) => updateBackend(element, backend, this.rates.get(backend.address), this.model.time);
    sync(byId("details-backends").tBodies[0], backends.slice(0, MOST), (b) => b.address, newBackend, update);
    const rejected = byId("details-rejected");
    rejected.hidden = told.rejections.length === 0;
    sync(rejected.lastElementChild, told.rejections, (r) => `${r.origin} ${r.reason}`,
      (r) => make("li", {}, make("code", {}, r.origin), ` ${r.reason}`), () => {});
  }
}

/** Pairs of a term and what it comes to. */
export function facts(list, pairs) {
  sync(list, pairs.filter(([, text]) => text !== ""), ([term]) => term,
    ([term]) => make("div", {}, make("dt", {}, term), make("dd")),
    (element, [, text]) => sayWhole(element.lastElementChild, text));
}

function newFrontend() {
  return make("tr", {}, make("th", { scope: "row", class: "mono" }), make("td"), make("td"), make("td", { class: "number" }));
}

/** Whose connections find a frontend. */
function whose(scope, comes) {
  const sockets = scope === "host" ? "this host" : "everybody";
  return comes === "packets" ? "packets only" : comes === "both" ? `${sockets}, packets too` : sockets;
}

function updateFrontend(element, { frontend, scope, comes, installed, usable }) {
  const [address, who, kernel, backends] = element.cells;
  say(address, frontend);
  say(who, whose(scope, comes));
  say(kernel, comes === "packets" ? "–" : installed ? "yes" : "no");
  kernel.classList.toggle("bad", !installed);
  figure(backends, usable);
  backends.classList.toggle("bad", usable === 0);
}

function newBackend() {
  const number = () => make("td", { class: "number" });
  return make("tr", {}, make("td", {}, make("span"), make("span", { class: "why" })),
    make("th", { scope: "row" }, make("span", { class: "mono" }), make("span", { class: "why" })), number(),
    make("td", { class: "number rate" }, newPlot(), make("span")), number(), number(), number(), make("td", { class: "quiet" }));
}

function updateBackend(element, backend, rates, time) {
  const [how, address, share, connects, active, failed, rtt, since] = element.cells;
  state(how.firstElementChild, backend.why);
  sayWhole(how.lastElementChild, health(backend));
  say(address.firstElementChild, backend.address);
  sayWhole(address.lastElementChild, origin(backend));
  say(share, `${backend.share.toFixed(backend.share < 10 ? 1 : 0)}%`);
  share.classList.toggle("zero", backend.share === 0);
  plot(connects.firstElementChild, rates.values);
  figure(connects.lastElementChild, rates.now, rate);
  figure(active, backend.active);
  figure(failed, backend.failures);
  failed.classList.toggle("bad", (backend.outcomes?.consecutive ?? 0) > 0);
  sayWhole(rtt, backend.outcomes?.srtt?.split(" ")[0] ?? "–");
  sayWhole(since, backend.since ? span(time - Date.parse(backend.since)) : "–");
}

/** What checks say, in one line. */
function health({ health }) {
  if (!health) return "";
  const parts = [];
  if (health.ejected_for) parts.push(`for ${health.ejected_for.split(" ").slice(0, 2).join(" ")}`);
  const { check } = health;
  if (check) {
    parts.push(`${check.check} ${check.up ? "up" : "down"} ${check.standing}`);
    if (check.text) parts.push(check.text);
    if (check.took && check.up) parts.push(check.took.split(" ")[0]);
  }
  return parts.join(" · ");
}

function origin(backend) {
  const parts = [];
  if (backend.weight !== 1) parts.push(`weight ${backend.weight}`);
  if (backend.zone) parts.push(`zone ${backend.zone}`);
  if (backend.leased) parts.push("leased");
  if (backend.overridden) parts.push("operator's word");
  return parts.join(" · ");
}
