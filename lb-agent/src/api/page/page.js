// The page: joins the stream of changes, the list, the details and what stands beside them.

import { byId, count, figure, plot, rate, say } from "./dom.js";
import { Details } from "./details.js";
import { List } from "./list.js";
import { Model } from "./model.js";
import { showAgent, tell } from "./side.js";

const model = new Model();
// The list first: a key that it takes is not the details' any more.
const list = new List(model, (name) => {
  list.mark(name);
  details.open(name);
});
const details = new Details(model, (name) => {
  list.mark(null);
  list.focus(name);
});

function show() {
  const { total } = model;
  say(byId("total-rate"), rate(total.rate));
  plot(byId("total-plot"), model.rates);
  figure(byId("total-active"), total.active);
  figure(byId("total-failed"), total.failures);
  byId("total-failed").classList.toggle("bad", total.failures > 0);
  figure(byId("total-refused"), total.refusals);
  byId("total-refused").classList.toggle("bad", total.refusals > 0);
  say(byId("total-services"), count(model.services.size));
  say(byId("total-backends"), `${count(total.usable)}/${count(total.backends)}`);
  showAgent(model);
  list.show();
  details.refresh();
}

/** Says how the stream is, once: it is read out. */
function stream(how, text) {
  const element = byId("stream");
  element.dataset.how = how;
  say(element, text);
}

function follow() {
  const events = new EventSource("v1/events");
  let opened = false;
  events.addEventListener("whole", (event) => {
    model.whole(JSON.parse(event.data));
    if (!opened) tell([{ tone: "note", text: "page opened" }], model.time);
    opened = true;
    stream("live", "live");
    show();
  });
  events.addEventListener("change", (event) => {
    const told = JSON.parse(event.data);
    model.change(told);
    if (told.news) tell(told.news, told.time);
    show();
  });
  events.addEventListener("error", () => {
    if (byId("stream").dataset.how !== "lost" && opened) {
      tell([{ tone: "bad", text: "the agent does not answer; what is shown is as it was" }], Date.now());
    }
    stream("lost", opened ? "no answer, as it was" : "no answer");
    // A refusal ends the stream for good, and an agent that is busy refuses.
    if (events.readyState === EventSource.CLOSED) {
      events.close();
      setTimeout(follow, 2000);
    }
  });
}

say(byId("where"), location.host);
document.title = `lb ${location.host}`;
follow();
