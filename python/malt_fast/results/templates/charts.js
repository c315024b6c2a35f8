// Lines over steps, calls or turns, by uPlot: values under the pointer, parts enlarged by dragging.
// Colours are those of the page, so a chart is drawn again when the theme changes.
"use strict";
(() => {
  const COLOURS = ["--accent", "--bad", "--good", "--warn", "--violet", "--dim"];
  const DASHES = [[], [9, 4], [3, 3], [9, 3, 3, 3], [15, 4]];   // lines differ without colours, too
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const fade = (one) => `color-mix(in srgb, ${one} 18%, transparent)`;
  const short = (value) => value?.toLocaleString("en", { maximumSignificantDigits: 4 }) ?? "–";
  const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5];   // between whole numbers

  function options(chart, width) {
    const font = "12px system-ui, sans-serif", grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--dim"), grid, ticks: { show: false }, font, labelFont: font, labelSize: 20 };
    const borders = [];   // in the legend, by series
    const series = [{ label: chart.xlabel, value: (_, value) => short(value) }], bands = [];
    chart.series.forEach((line) => {
      const stroke = colour(COLOURS[line.colour % COLOURS.length]), at = series.length;
      const alone = line.y.filter((value) => value !== null).length === 1;
      borders[at] = ["solid", "dashed", "dotted"][line.colour % DASHES.length];
      series.push({
        label: line.name, stroke, width: 2, dash: DASHES[line.colour % DASHES.length],
        spanGaps: true, points: { show: chart.x.length < 40 || alone, size: 6, fill: stroke },
        value: (_, value) => short(value),
      });
      if (!line.low) return;
      for (const end of ["high", "low"]) {
        series.push({
          label: `${line.name}, ${end}`, width: 0, stroke: "transparent", spanGaps: true, points: { show: false }, class: "end",
        });
      }
      bands.push({ series: [at + 1, at + 2], fill: fade(stroke) });
    });
    const whole = chart.x.every(Number.isInteger);
    return {
      width, height: 240, series, bands, scales: { x: { time: false } },
      axes: [
        { ...axis, label: chart.xlabel, size: 34, incrs: whole ? STEPS : undefined, values: (_, ticks) => ticks.map(short) },
        { ...axis, label: chart.ylabel, size: 56, values: (_, ticks) => ticks.map(short) },
      ],
      cursor: { drag: { x: true, y: false }, points: { size: 8 } },
      legend: { live: true, markers: { width: 3, dash: (_, i) => borders[i] || "solid" } },
    };
  }

  const columns = (chart) => [chart.x, ...chart.series.flatMap((line) => (line.low ? [line.y, line.high, line.low] : [line.y]))];

  // Left and right move along the points, + and - enlarge and reduce around them.
  function key(event, plot, state) {
    const x = plot.data[0], { min, max } = plot.scales.x;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], zoom = { "+": 0.5, "-": 2 }[event.key];
    if (by === undefined && zoom === undefined) return;
    event.preventDefault();
    if (by) state.point = Math.max(0, Math.min(x.length - 1, state.point + by));
    const at = x[Math.max(0, state.point)];
    if (zoom) {
      const half = ((max - min) * zoom) / 2, all = [x[0], x[x.length - 1]];
      plot.setScale("x", 2 * half >= all[1] - all[0] ? { min: all[0], max: all[1] } : { min: at - half, max: at + half });
    }
    plot.setCursor({ left: plot.valToPos(at, "x"), top: 20 });
  }

  function draw(box, chart) {
    const state = { point: -1 };
    box.replaceChildren();
    const plot = new uPlot(options(chart, box.clientWidth || 300), columns(chart), box);
    plot.root.querySelector("canvas").setAttribute("aria-hidden", "true");
    const names = chart.series.map((line) => line.name).join(", ");
    const over = plot.over;
    over.tabIndex = 0;
    over.setAttribute("role", "img");
    over.setAttribute("aria-label", `${chart.title}: ${chart.ylabel} by ${chart.xlabel} of ${names}; the numbers are below`);
    over.addEventListener("keydown", (event) => key(event, plot, state));
    return plot;
  }

  const all = Malt.data("charts-data") || [];
  for (const box of document.querySelectorAll(".plot")) {
    let plot = null;
    const fresh = () => { plot = draw(box, all[box.dataset.chart]); };
    // Drawn when it comes near, since a page may have many.
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((one) => one.isIntersecting)) return;
      seen.disconnect();
      fresh();
      Malt.themed.push(fresh);
      new ResizeObserver(() => box.clientWidth && plot.setSize({ width: box.clientWidth, height: 240 })).observe(box);
    }, { rootMargin: "300px" });
    seen.observe(box);
  }
})();
