
// Fetches status.json once a second and shows it. Everything is inserted as text.

const EVERY_SECONDS = 1;
const TIMEOUT_SECONDS = 4;
const STALE_SECONDS = 3;
const AVERAGED_SECONDS = 5; // a queue writes in bursts; over less than this, rates are noise

// Served without a slash at its end, as when mounted at /queue, relative paths start there.
const BASE = location.pathname.endsWith("/") ? "" : `${location.pathname.split("/").at(-1)}/`;

// What each state is called and looks like; the worst first.
const STATES = {
  waiting: ["Waiting for the store", "bad", "M8 1 15.5 14.5H.5ZM7 5.5 7.3 10h1.4L9 5.5ZM7 11.2v1.8h2v-1.8Z"],
  paused: ["Paused", "warn", "M3 2h3.5v12H3ZM9.5 2H13v12H9.5Z"],
  unready: ["Running, not durable", "warn", "M8 1 15.5 14.5H.5ZM7 5.5 7.3 10h1.4L9 5.5ZM7 11.2v1.8h2v-1.8Z"],
  draining: ["Draining", "busy", "M7 1h2v7h3.5L8 12.5 3.5 8H7ZM2 13.5h12V15H2Z"],
  closed: ["Closed", "off", "M2.5 2.5h11v11h-11Z"],
  running: ["Running", "good", "M8 .5a7.5 7.5 0 1 0 0 15 7.5 7.5 0 0 0 0-15ZM11.6 5 12.8 6.2 7 12 3.6 8.6 4.8 7.4 7 9.6Z"],
};
const LOST = ["No answer", "off", "M8 .5a7.5 7.5 0 1 0 0 15 7.5 7.5 0 0 0 0-15ZM4 7h8v2H4Z"];
const NONE = ["No queue is open", ...LOST.slice(1)];
const TONE_COLOURS = { good: "#2a9d55", bad: "#d13c2f", warn: "#b98900", busy: "#2f7de1", off: "#7a8592" };

// Label, value, and when to draw attention to it.
const TOTALS = [
  ["Accepted", "accepted"],
  ["Written", "total_persisted"],
  ["Replaced by newer", "total_coalesced"],
  ["Dead letters", "total_failed", "alarming"],
  ["Tried again", "total_retries"],
  ["Turned away", "total_refused"],
  ["Callers waiting", "producers_waiting", "alarming"],
  ["Handed back", "handed_back", "alarming"],
];

const CACHE_TOTALS = [
  ["Found in memory", ({ cache }) => formatNumber(cache.hits_memory)],
  ["Found pending", ({ cache }) => formatNumber(cache.hits_pending)],
  ["Found in the store", ({ cache }) => formatNumber(cache.hits_store)],
  ["Not found", ({ cache }) => formatNumber(cache.misses)],
  ["Computed", ({ cache }) => formatNumber(cache.computations)],
  ["Shared waits", ({ cache }) => formatNumber(cache.shared_waits)],
  ["Failed", ({ cache }) => formatNumber(cache.errors), ({ failing }) => failing],
  ["Remembered", ({ cache }) => formatNumber(cache.entries)],
];

const STREAM_TOTALS = [
  ["Messages", (look) => formatNumber(look.messages)],
  ["Size", (look) => formatBytes(look.bytes)],
  ["Limit", (look) => (look.max_bytes === null ? "none" : formatBytes(look.max_bytes))],
  ["Full", (look) => (look.max_bytes === null ? "–" : formatShare(look.bytes / look.max_bytes)), (look) => look.bytes > 0.8 * (look.max_bytes ?? Infinity)],
  ["Oldest message", (look) => (look.messages ? formatDuration(look.oldest_seconds) : "–"), (look) => look.oldest_seconds > 300],
  ["Held by relays", (look) => formatNumber(look.ack_pending)],
  ["Redelivered", (look) => formatNumber(look.redelivered), (look) => look.redelivered > 0],
  ["Seen", (look) => `${formatDuration(look.age_seconds)} ago`],
];

const page = (id) => document.getElementById(id);
const calmly = matchMedia("(prefers-reduced-motion: reduce)");
const seconds = () => performance.now() / 1000;
const views = new Map(); // by queue name, in the order of the report

/** What is shown of one queue, and the last five minutes of it. */
class QueueView {
  constructor(name, number) {
    this.name = name;
    this.samples = []; // of the last minutes, for the charts
    this.recent = []; // of the last seconds, for the rates
    this.section = page("queue").content.firstElementChild.cloneNode(true);
    this.slots = {};
    for (const slot of this.section.querySelectorAll("[data-slot]")) this.slots[slot.dataset.slot] = slot;
    this.slots.name.textContent = name;
    this.slots.name.id = `queue-${number}`;
    this.section.setAttribute("aria-labelledby", this.slots.name.id);
    this.link = element("a", { href: `#queue-${number}` });
    this.item = element("li", {}, this.link);
    this.charts = [
      new Chart("Entries per second", [{ name: "in", label: "In" }, { name: "out", label: "Out" }]),
      new Chart("Entries waiting", [{ name: "depth", label: "In line" }, { name: "flight", label: "In flight" }]),
      new Chart("Entries per batch", [{ name: "batch" }]),
      new Chart("Age of the oldest", [{ name: "oldest" }], { format: formatDuration, least: 1 }),
    ];
    this.slots.charts.append(...this.charts.map((chart) => chart.figure));
    this.totals = valuesIn(this.slots.totals, TOTALS);
    this.cacheTotals = valuesIn(this.slots["cache-totals"], CACHE_TOTALS);
    this.streamTotals = valuesIn(this.slots["stream-totals"], STREAM_TOTALS);
  }

  take(queue, now) {
    // A relay takes entries over, and accepts none.
    const metrics = {
      ...queue.metrics,
      accepted: queue.metrics.total_enqueued + queue.metrics.total_recovered,
      handed_back: queue.metrics.total_abandoned - queue.metrics.total_kept,
    };
    // Smaller than before: the program was started anew.
    const anew = this.metrics && metrics.accepted < this.metrics.accepted;
    this.samples = this.samples.filter(({ at }) => now - at <= MOST_SECONDS);
    this.recent = anew ? [] : this.recent.filter(({ at }) => now - at <= AVERAGED_SECONDS + 0.5);
    this.recent.push({ at: now, metrics, cache: queue.cache });
    const first = this.recent[0];
    const grown = (name) => metrics[name] - first.metrics[name];
    const rate = (name) => (first.at < now ? grown(name) / (now - first.at) : null);
    const batches = grown("total_batches");
    this.samples.push({
      at: now,
      in: rate("accepted"),
      out: rate("total_persisted"),
      depth: metrics.current_queue_depth,
      flight: metrics.in_flight,
      batch: batches ? grown("total_persisted") / batches : null,
      oldest: metrics.oldest_pending_seconds,
    });
    this.queue = queue;
    this.metrics = metrics;
    this.at = now;
    const key = queue.state === "running" && !queue.ready ? "unready" : queue.state;
    this.rank = Object.keys(STATES).indexOf(key);
    this.look = STATES[key] ?? [queue.state, ...NONE.slice(1)]; // of a newer version, unknown here
    [this.word, this.tone, this.icon] = this.look;
  }

  show(now) {
    const { slots, queue, metrics } = this;
    this.section.dataset.tone = this.link.dataset.tone = this.tone;
    slots.icon.replaceChildren(iconOf(this.icon));
    slots.word.textContent = this.word;
    slots.ready.textContent = queue.ready ? "Ready for work" : "Not ready for work";
    const explained = queue.ready || queue.state !== "running";
    slots.summary.textContent = explained ? queue.summary : `${queue.summary} Not ready, because ${queue.reason}.`;
    this.link.replaceChildren(
      iconOf(this.icon),
      element("span", {}, element("bdi", {}, this.name)),
      element("span", { class: "word" }, this.word),
    );
    this.showError(now);
    this.showCache();
    this.showStream();
    TOTALS.forEach(([, name, alarming], index) => {
      const shown = this.totals[index];
      shown.textContent = formatNumber(metrics[name]);
      shown.parentElement.classList.toggle("alarming", Boolean(alarming && metrics[name]));
      if (name === "total_failed" && queue.dead_letters !== null) {
        shown.append(" ", element("small", {}, `(${formatNumber(queue.dead_letters)} kept)`));
      }
    });
  }

  showCharts(now) {
    for (const chart of this.charts) chart.show(this.samples, now);
  }

  showCache() {
    const { slots, queue } = this;
    slots.cache.hidden = !queue.cache; // missing: of an older version
    if (!queue.cache) return;
    const { cache } = queue;
    const first = this.recent.find((sample) => sample.cache)?.cache ?? cache;
    const grown = (...names) => names.reduce((sum, name) => sum + Math.max(0, cache[name] - first[name]), 0);
    const hits = grown("hits_memory", "hits_pending", "hits_store");
    const lookups = hits + grown("misses");
    const lately = `of ${formatNumber(lookups)} keys in the last seconds`;
    slots["cache-text"].textContent = lookups ? `${formatShare(hits / lookups)} found, ${lately}` : "nobody has asked in the last seconds";
    showValues(this.cacheTotals, CACHE_TOTALS, { cache, failing: grown("errors") > 0 });
  }

  showStream() {
    const { slots, queue } = this;
    slots.stream.hidden = !queue.stream;
    if (!queue.stream) return;
    const { stream, look } = { ...queue.stream };
    slots["stream-name"].textContent = stream;
    slots.stream.classList.toggle("alarming", !look?.current);
    slots.stream.classList.toggle("old", !look?.current);
    slots["stream-totals"].hidden = !look;
    slots["stream-text"].textContent = aboutStream(look);
    if (look) showValues(this.streamTotals, STREAM_TOTALS, look);
  }

  showError(now) {
    const { slots, metrics } = this;
    const error = metrics.last_error;
    const stuck = ["waiting", "paused"].includes(metrics.state);
    slots.error.classList.toggle("now", stuck);
    slots["error-text"].textContent = error === null ? "none" : describe(error);
    const left = metrics.next_try_in_seconds;
    slots.next.hidden = left === null && !stuck;
    const rest = left === null ? 0 : left - (now - this.at);
    slots["next-text"].textContent = rest > 0 ? `in ${formatDuration(Math.max(1, Math.ceil(rest)))}` : "now";
  }
}

/** Put a place for each value into a list, and return these places. */
function valuesIn(list, rows) {
  return rows.map(([label]) => {
    const value = element("dd");
    list.append(element("div", {}, element("dt", {}, label), value));
    return value;
  });
}

function showValues(places, rows, from) {
  rows.forEach(([, value, alarming], index) => {
    places[index].textContent = value(from);
    places[index].parentElement.classList.toggle("alarming", Boolean(alarming?.(from)));
  });
}

function aboutStream(look) {
  if (!look) return "What it holds is not known: no look at it has succeeded yet.";
  if (!look.current) return `Not seen for ${formatDuration(look.age_seconds)}; this is how it was then.`;
  return look.messages ? "Messages wait for a relay, or are on their way to the store." : "It is empty.";
}

function describe(error) {
  const at = new Date(error.at);
  const today = at.toDateString() === new Date().toDateString();
  const time = today ? at.toLocaleTimeString() : at.toLocaleString();
  const state = error.sqlstate === null ? [] : [`SQLSTATE ${error.sqlstate}`];
  return [error.error_class, ...state, `at ${time}`].join(", ");
}

function iconOf(path) {
  const svg = drawing("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" });
  svg.append(drawing("path", { d: path, "fill-rule": "evenodd" }));
  return svg;
}

let lastAnswer = seconds();
let lastDrawn = -Infinity;
let answered = false;
let held = false;
let stale = false;

function receive(report) {
  const now = seconds();
  const news = [];
  const names = new Set(report.queues.map(({ name }) => name));
  for (const [name, view] of views) {
    if (names.has(name)) continue;
    view.section.remove();
    view.item.remove();
    views.delete(name);
    news.push(`${name} is gone.`);
  }
  for (const queue of report.queues) {
    const view = views.get(queue.name) ?? addView(queue.name);
    const word = view.word;
    view.take(queue, now);
    if (word !== undefined && word !== view.word) news.push(`${queue.name}: ${view.word}. ${queue.summary}`);
  }
  if (stale) news.push("There is an answer again.");
  lastAnswer = now;
  answered = true;
  stale = false;
  if (news.length) page("announcer").textContent = news.join(" ");
  page("freshness").textContent = `As of ${new Date(report.time).toLocaleTimeString()}`;
  showAll(now);
}

let number = 0;

function addView(name) {
  number += 1;
  const view = new QueueView(name, number);
  views.set(name, view);
  page("queues").append(view.section);
  page("nav").firstElementChild.append(view.item);
  return view;
}

function showAll(now) {
  const all = [...views.values()];
  for (const view of all) view.show(now);
  if (now - lastDrawn > (calmly.matches ? 5 : 0.5)) {
    for (const view of all) view.showCharts(now);
    lastDrawn = now;
  }
  page("nav").hidden = all.length < 2;
  page("overall").textContent = overall(all);
  showHead();
  page("stale").hidden = true;
  document.body.classList.remove("stale");
  if (!all.length) page("queues").replaceChildren(element("p", { class: "queue empty" }, "No queue is open."));
  else page("queues").querySelector(".empty")?.remove();
}

function overall(all) {
  const ready = all.filter(({ queue }) => queue.ready).length;
  if (all.length === 0) return "No queue is open";
  if (all.length === 1) return ready ? "The queue is ready" : "The queue is not ready";
  return ready === all.length ? `All ${ready} queues are ready` : `${ready} of ${all.length} queues are ready`;
}

/** Show the worst state in the tab: in its title, and in its icon. */
function showHead() {
  const all = [...views.values()];
  const worst = Math.min(...all.map(({ rank }) => rank));
  const like = stale ? all : all.filter(({ rank }) => rank === worst);
  const [word, tone, icon] = stale ? LOST : like.length ? like[0].look : NONE;
  const share = like.length < all.length ? `${like.length} of ${all.length}` : `${all.length}`;
  const which = like.length === 1 ? like[0].name : `${share} queues`;
  document.title = like.length ? `${word}: ${which}` : word;
  const svg = `<svg xmlns="${SVG}" viewBox="0 0 16 16"><path fill-rule="evenodd" fill="${TONE_COLOURS[tone]}" d="${icon}"/></svg>`;
  const href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  if (page("icon").getAttribute("href") !== href) page("icon").setAttribute("href", href);
}

/** Between answers: count down, and say when there is none. */
function tick() {
  const now = seconds();
  if (held) return;
  for (const view of views.values()) view.showError(now);
  const silent = now - lastAnswer;
  if (silent < STALE_SECONDS) return;
  const text = `Stale: no answer for ${formatDuration(Math.floor(silent))}.`;
  page("stale").textContent = answered ? `${text} What you see is how it was before.` : text;
  page("stale").hidden = false;
  document.body.classList.add("stale");
  page("overall").textContent = "The program does not answer";
  if (stale) return;
  stale = true;
  page("announcer").textContent = "There is no answer any more; what the page shows is stale.";
  showHead();
}

async function poll() {
  const started = seconds();
  if (!held) {
    try {
      const signal = AbortSignal.timeout(TIMEOUT_SECONDS * 1000);
      const response = await fetch(`${BASE}status.json`, { cache: "no-store", signal });
      const report = await response.json();
      if (!held && report.version === 1) receive(report);
    } catch {
      // tick() shows that there was no answer
    }
  }
  setTimeout(poll, 1000 * Math.max(0.1, EVERY_SECONDS - (seconds() - started)));
}

page("hold").addEventListener("click", () => {
  held = !held;
  lastAnswer = seconds();
  page("hold").textContent = held ? "Resume updates" : "Stop updates";
});
for (const link of document.querySelectorAll("[data-path]")) link.href = BASE + link.dataset.path;
setInterval(tick, 1000);
poll();
