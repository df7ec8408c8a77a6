
// Numbers as people read them, and the charts that they move through.

const WINDOWS_SECONDS = [60, 120, 300]; // the first that holds all there is
const MOST_SECONDS = WINDOWS_SECONDS.at(-1);
const GAP_SECONDS = 6; // longer without a sample, and the line is interrupted
const WIDTH = 300;
const HEIGHT = 72;
const SVG = "http://www.w3.org/2000/svg";

function formatNumber(value) {
  if (value >= 1e9) {
    return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 }).format(value);
  }
  return new Intl.NumberFormat("en", { maximumFractionDigits: value < 10 ? 1 : 0 }).format(value);
}

function formatDuration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${formatNumber(seconds)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${formatNumber(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

function formatBytes(bytes) {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  return `${formatNumber(bytes / 1000 ** power)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

function formatShare(share) {
  const percent = 100 * share;
  const nearAnEnd = percent < 10 || percent > 99;
  return `${new Intl.NumberFormat("en", { maximumFractionDigits: nearAnEnd ? 1 : 0 }).format(percent)} %`;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children); // text is taken for text, never for markup
  return made;
}

function drawing(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** The next number upwards that is 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value);
}

/** One or two series over the last minutes, with its numbers as text beside it. */
class Chart {
  /**
   * series: [{ name, label }]: which value of a sample, and what it is called.
   * least: the upper end of the scale is never below this.
   */
  constructor(title, series, { format = formatNumber, least = 10 } = {}) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.values = series.map(() => element("b", {}, "–"));
    const shown = series.map(({ label }, index) => {
      const key = element("i", { class: index ? "second" : "first", "aria-hidden": "true" });
      return element("p", {}, ...(label ? [key, element("span", {}, `${label} `)] : []), this.values[index]);
    });
    this.svg = drawing("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true", // the text around it says it
    });
    for (let x = 0; x <= WIDTH; x += WIDTH / 5) this.addLine("grid", x, 0, x, HEIGHT);
    this.addLine("grid", 0, 0, WIDTH, 0);
    this.addLine("grid", 0, HEIGHT / 2, WIDTH, HEIGHT / 2);
    this.addLine("axis", 0, HEIGHT, WIDTH, HEIGHT);
    this.area = this.svg.appendChild(drawing("path", { class: "area" }));
    this.lines = series.map((_, index) =>
      this.svg.appendChild(drawing("path", { class: index ? "second" : "first" })),
    );
    this.top = element("span", { class: "top", "aria-hidden": "true" });
    this.start = element("span");
    this.range = element("p", { class: "range" });
    this.figure = element(
      "figure",
      { class: "chart" },
      element("figcaption", {}, element("h3", {}, title)),
      element("div", { class: "now-values" }, ...shown),
      element("div", { class: "plot" }, this.svg, this.top),
      element("p", { class: "times", "aria-hidden": "true" }, this.start, element("span", {}, "now")),
      this.range,
    );
  }

  addLine(name, x1, y1, x2, y2) {
    this.svg.append(drawing("line", { class: name, x1, y1, x2, y2 }));
  }

  /** Show samples, each of which has the second it was taken `at` and its values, or null. */
  show(samples, now) {
    const length = WINDOWS_SECONDS.find((window) => now - samples[0].at <= window) ?? MOST_SECONDS;
    this.start.textContent = `${length / 60} min ago`;
    const known = this.series.map(({ name }) => samples.filter((sample) => sample[name] !== null));
    const values = this.series.map(({ name }, index) => known[index].map((sample) => sample[name]));
    this.showText(values);
    const highest = Math.max(1e-3, ...values.flat());
    const scale = Math.max(this.least, roundUp(highest));
    this.top.textContent = this.format(scale);
    this.series.forEach(({ name }, index) => {
      const runs = runsOf(known[index]).map((run) =>
        run.map((sample) => [
          Math.max(0, WIDTH * (1 - (now - sample.at) / length)).toFixed(1),
          (HEIGHT * (1 - sample[name] / scale)).toFixed(1),
        ]),
      );
      // A lone point is drawn as a dot: a line of almost no length with round ends.
      const line = runs.map((run) => `M${run.join("L")}${run.length > 1 ? "" : "h.01"}`);
      this.lines[index].setAttribute("d", line.join(""));
      if (index) return;
      const area = runs.map((run) => `M${run[0][0]} ${HEIGHT}L${run.join("L")}V${HEIGHT}Z`);
      this.area.setAttribute("d", area.join(""));
    });
  }

  showText(values) {
    const ranges = this.series.map(({ label }, index) => {
      const all = values[index];
      this.values[index].textContent = all.length ? this.format(all.at(-1)) : "–";
      const range = all.length
        ? `${this.format(Math.min(...all))} to ${this.format(Math.max(...all))}`
        : "nothing yet";
      return label ? `${label.toLowerCase()} ${range}` : range;
    });
    this.range.textContent = `Range: ${ranges.join(", ")}`;
  }
}

/** Split samples where there was none for some seconds. */
function runsOf(samples) {
  const runs = [];
  samples.forEach((sample, index) => {
    if (index === 0 || sample.at - samples[index - 1].at > GAP_SECONDS) runs.push([]);
    runs.at(-1).push(sample);
  });
  return runs;
}
