// What is known of the agent and its services: told whole at first, then by changes. Rates are
// reckoned here, by the agent's clock, so that a page that lags shows what was.

/** Looks that are remembered: a minute, where they are a second apart. */
export const SAMPLES = 60;

/** What "1 min" is, in seconds. */
const MINUTE = 60;

/** How levels are ordered, worst first. */
export const LEVELS = ["down", "fail_open", "degraded", "ok"];

/** The last looks at a number that only grows, as growth per second. */
export class Rates {
  values = new Float32Array(SAMPLES).fill(NaN);
  last = null;

  /** The number was seen to be `total`, `seconds` after the look before. */
  see(total, seconds) {
    const known = this.last !== null && seconds > 0;
    // A number that shrank began anew.
    const rate = known ? Math.max(0, total - this.last) / seconds : NaN;
    this.last = total;
    this.values.copyWithin(0, 1);
    this.values[SAMPLES - 1] = rate;
  }

  get now() {
    const last = this.values[SAMPLES - 1];
    return Number.isNaN(last) ? 0 : last;
  }

  /** Growth within the last minute; `spans` are the seconds from each look to the one before. */
  within(spans) {
    let sum = 0;
    let left = MINUTE;
    for (let at = SAMPLES - 1; at >= 0 && left > 0; at -= 1) {
      const span = Math.min(spans[at], left);
      left -= span;
      if (!Number.isNaN(this.values[at])) sum += this.values[at] * span;
    }
    return Math.round(sum);
  }
}

class Service {
  connects = new Rates();
  failed = new Rates();
  refused = new Rates();
  active = 0;

  constructor(row) {
    this.update(row);
  }

  update(row) {
    this.row = row;
    this.counts = row.counts;
    this.rank = LEVELS.indexOf(row.level);
    this.text = `${row.name} ${row.frontends.join(" ")} ${row.source}`.toLowerCase();
  }

  look(seconds, spans) {
    const [connects, active, failed, refused] = this.counts;
    this.active = active;
    this.connects.see(connects, seconds);
    this.failed.see(failed, seconds);
    this.refused.see(refused, seconds);
    this.rate = this.connects.now;
    this.failures = this.failed.within(spans);
    this.refusals = this.refused.within(spans);
  }
}

export class Model {
  /** By the number that the agent gave them. */
  services = new Map();
  agent = null;
  /** Seconds since each source was heard to be up to date; null: not since the agent started. */
  lags = [];
  at = null;
  time = Date.now();
  total = { rate: 0, active: 0, failures: 0, refusals: 0, usable: 0, backends: 0, troubled: 0 };
  /** Seconds from each look to the one before: with very much to see, looks are rarer. */
  spans = new Float32Array(SAMPLES);
  /** Connects per second of all. */
  rates = new Float32Array(SAMPLES).fill(NaN);

  /** Everything, also after having been away: services that are known by name keep their past. */
  whole(told) {
    const known = new Map([...this.services.values()].map((service) => [service.row.name, service]));
    this.services = new Map();
    for (const row of told.rows) {
      const service = known.get(row.name);
      service?.update(row);
      this.services.set(row.id, service ?? new Service(row));
    }
    this.agent = told.agent;
    this.lags = told.lags;
    // The clock may be another's.
    this.at = null;
    this.look(told);
  }

  change(told) {
    if (told.agent) this.agent = told.agent;
    this.lags = told.lags;
    for (const id of told.gone ?? []) this.services.delete(id);
    for (const row of told.rows ?? []) {
      const service = this.services.get(row.id);
      if (service) service.update(row);
      else this.services.set(row.id, new Service(row));
    }
    for (const [id, counts] of told.counts ?? []) {
      const service = this.services.get(id);
      if (service) service.counts = counts;
    }
    this.look(told);
  }

  look({ at, time }) {
    const seconds = this.at === null ? 0 : (at - this.at) / 1000;
    this.at = at;
    this.time = time;
    this.spans.copyWithin(0, 1);
    this.spans[SAMPLES - 1] = seconds;
    const total = { rate: 0, active: 0, failures: 0, refusals: 0, usable: 0, backends: 0, troubled: 0 };
    for (const service of this.services.values()) {
      service.look(seconds, this.spans);
      total.rate += service.rate;
      total.active += service.active;
      total.failures += service.failures;
      total.refusals += service.refusals;
      total.usable += service.row.usable;
      total.backends += service.row.backends;
      if (service.row.level !== "ok") total.troubled += 1;
    }
    this.total = total;
    this.rates.copyWithin(0, 1);
    this.rates[SAMPLES - 1] = seconds > 0 ? total.rate : NaN;
  }
}
