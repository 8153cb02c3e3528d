// The three plots, drawn by uPlot.  They share one cursor; the figures above a plot are those at the cursor, or the
// latest.

import { $, make, setText } from "./dom.js";
import { clock, duration, percent, rate } from "./words.js";

const HEIGHT = 150;
const ms = (value) => (value == null ? "–" : value === 0 ? "0" : duration(value / 1000));
const share = (value) => (value == null ? "–" : percent(value / 100));
const PLOTS = [
  { id: "requests", title: "Requests a second", lines: [["calls", "", "blue", "--blue"]], say: rate },
  { id: "errors", title: "Errors", lines: [["errors", "", "red", "--bad"]], say: share, least: 5 },
  {
    id: "latency", title: "Latency", say: ms, least: 5,
    lines: [["p50", "p50", "teal", "--teal"], ["p90", "p90", "blue", "--blue"], ["p99", "p99", "violet", "--violet"]],
  },
];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Plot {
  constructor(plan) {
    this.plan = plan;
    this.figure = $(`#plot-${plan.id}`);
    this.outputs = plan.lines.map(() => make("output"));
    const legend = plan.lines.map(([, name, tone], i) => make("span", {}, make("i", { class: tone }), `${name} `, this.outputs[i]));
    $("figcaption", this.figure).append(make("b", {}, plan.title), ...legend, (this.at = make("span")));
    this.data = [[], ...plan.lines.map(() => [])];
    this.span = [0, 300];
    this.draw();
    new ResizeObserver(() => this.fit()).observe(this.figure);
  }

  /* Creates the chart, again after a change of the theme. */
  draw() {
    this.chart?.destroy();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const { plan } = this;
    this.chart = new uPlot(
      {
        width: this.figure.clientWidth || 300, height: HEIGHT, padding: [8, 16, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "time" }, y: false, points: { size: 5 }, drag: { setScale: false, x: false, y: false } },
        scales: { x: { range: () => this.span }, y: { range: (_, __, top) => [0, Math.max(plan.least ?? 1, (top ?? 0) * 1.15)] } },
        axes: [
          { ...axis, size: 22, space: 60, values: (_, ticks) => ticks.map((t) => clock(t).slice(0, 5)), incrs: [60, 120, 300] },
          { ...axis, size: 48, space: 32, values: (_, ticks) => ticks.map(plan.say) },
        ],
        series: [{}, ...plan.lines.map(([, , , name], index) => ({
          stroke: colour(name), width: 1.5, points: { show: false }, spanGaps: false,
          fill: plan.lines.length === 1 ? colour(name) + "22" : undefined, dash: index === 2 ? [4, 3] : undefined,
        }))],
        hooks: { setCursor: [() => this.tell()] },
      },
      this.data,
      this.figure,
    );
    this.chart.root.setAttribute("aria-hidden", "true"); // the figures above it and the table below it have the same data
  }

  fit() {
    const width = this.figure.clientWidth;
    if (width && width !== this.chart.width) this.chart.setSize({ width, height: HEIGHT });
  }

  show(columns, keep) {
    const last = columns.times.at(-1) ?? keep;
    this.span = [last - keep, last];
    this.data = [columns.times, ...this.plan.lines.map(([name]) => columns[name])];
    this.chart.setData(this.data);
    this.tell();
  }

  tell() {
    const { idx } = this.chart.cursor;
    const index = idx ?? this.data[0].length - 1;
    this.outputs.forEach((output, line) => setText(output, this.plan.say(this.data[line + 1][index])));
    setText(this.at, idx == null ? "" : `at ${clock(this.data[0][index])}`);
  }
}

export class Plots {
  constructor() {
    this.all = PLOTS.map((plan) => new Plot(plan));
  }

  show(columns, keep) {
    for (const plot of this.all) plot.show(columns, keep);
  }

  recolour() {
    for (const plot of this.all) plot.draw();
  }
}
