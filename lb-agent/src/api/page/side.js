// What stands beside the list: the agent, its sources, what was rejected, and what happened.

import { byId, clock, count, make, say, span, state, sync } from "./dom.js";
import { facts } from "./details.js";

/** Events that are kept. */
const KEPT = 200;

export function showAgent({ agent, time, lags }) {
  const ready = byId("ready");
  state(ready, agent.ready ? "serving" : "not ready");
  ready.classList.add("badge");
  showNotices(agent);
  showSources(agent, time, lags);
  byId("rejected").hidden = agent.rejected === 0;
  const listed = agent.rejections.length;
  say(byId("rejected-count"), listed < agent.rejected ? `${listed} of ${count(agent.rejected)}` : count(listed));
  sync(byId("rejections"), agent.rejections, (r) => `${r.origin}\n${r.service ?? ""}\n${r.reason}`, newRejection, () => {});
  const { work } = agent;
  facts(byId("agent"), [
    ["Version", `${agent.version}, layout ${agent.layout}`],
    ["Process", `${agent.pid}, up ${span(time - Date.parse(agent.started))}`],
    ["Cgroup", agent.cgroup],
    ["Pins", agent.pin_dir],
    ["Hooks", agent.hooks.map((hook) => hook.hook).join(" ") || "none attached"],
    ["Publishes", count(work.publishes)],
    ["Rounds", `${count(work.rounds)}, last ${(work.last_round_micros / 1000).toFixed(1)} ms, longest ${(work.longest_round_micros / 1000).toFixed(1)} ms`],
    ["Failed rounds", work.failures ? count(work.failures) : ""],
    ["Ended sockets", work.destroyed_udp + work.destroyed_tcp ? `${count(work.destroyed_udp)} UDP, ${count(work.destroyed_tcp)} TCP` : ""],
    ...agent.names.map((name) => [`Names in ${name.kind}`, `${name.place}, ${count(name.records)} records${name.error ? `: ${name.error}` : ""}`]),
  ]);
}

function showNotices(agent) {
  const notices = [
    ...agent.pending.map((text) => ["waits for", text]),
    ...(agent.work.last_error ? [["last round failed", agent.work.last_error]] : []),
    ...(agent.packet_path.error ? [["packets of others", agent.packet_path.error]] : []),
    ...agent.warnings.map((text) => ["kernel", text]),
    ...agent.names.flatMap((name) => name.problems.map((text) => [name.kind, text])),
  ];
  const list = byId("notices");
  list.hidden = notices.length === 0;
  sync(list, notices, (pair) => pair.join("\n"), ([kind, text]) => make("li", {}, make("b", {}, kind), ` ${text}`), () => {});
}

function showSources(agent, time, lags) {
  const sources = agent.sources.map((source, at) => ({ ...source, holds: agent.held[at], lag: lags[at] }));
  const create = () => make("li", {}, make("div", { class: "line" }, make("span"), make("b")),
    make("p", { class: "quiet" }), make("p", { class: "bad" }), make("ul", { class: "held" }));
  sync(byId("sources"), sources, (source) => source.name, create, (element, source) => {
    const [line, facts, error, held] = element.children;
    state(line.firstElementChild, source.error ? "failing" : source.synced ? "serving" : "standby");
    const word = source.error ? "in error" : source.synced ? "in step" : "has not delivered";
    if (line.firstElementChild.lastChild.data !== word) line.firstElementChild.lastChild.data = word;
    say(line.lastElementChild, source.name);
    const parts = [`${count(source.services)} services`, `revision ${count(source.revision)}`];
    if (source.delivered) parts.push(`delivered ${span(time - Date.parse(source.delivered))} ago`);
    parts.push(source.lag === null ? "not heard yet" : `heard ${span(source.lag * 1000)} ago`);
    if (source.refused) parts.push(`${count(source.refused)} refused so far`);
    if (source.holds) parts.push(`${count(source.holds)} removals held`);
    say(facts, parts.join(" · "));
    error.hidden = !source.error;
    const since = source.error_since ? ` (for ${span(time - Date.parse(source.error_since))})` : "";
    say(error, source.error ? `${source.error}${since}` : "");
    held.hidden = source.held.length === 0;
    sync(held, source.held.slice(0, 20), (item) => item.item,
      (item) => make("li", {}, make("code", {}, item.item), make("span", { class: "quiet" })),
      (element, { until }) => say(element.lastElementChild, until ? ` removed in ${span(Date.parse(until) - time)}` : " kept while the store is away"));
  });
}

function newRejection({ origin, service, reason }) {
  const item = make("li", {}, make("code", {}, origin));
  if (service) item.append(" ", make("b", {}, service));
  item.append(make("p", {}, reason));
  return item;
}

/** Newest first. */
export function tell(news, time) {
  const list = byId("events");
  const items = news.map(({ tone, service, text }) => {
    const item = make("li", { class: tone }, make("time", {}, clock(time)), " ");
    if (service) item.append(make("b", {}, service), " ");
    item.append(make("span", {}, text));
    return item;
  });
  list.prepend(...items);
  while (list.childElementCount > KEPT) list.lastElementChild.remove();
}
