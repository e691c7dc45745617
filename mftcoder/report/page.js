"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dashes = ["solid", "8px,4px", "2px,3px", "8px,3px,2px,3px", "14px,5px", "14px,4px,2px,4px"];
const symbols = ["circle", "diamond", "square", "cross"];
const hidden = { task: new Set(), run: new Set() };
const touch = matchMedia("(pointer: coarse)").matches;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const taskColour = (task) => css(task === null ? "--ink" : `--task-${task % 10}`);
const dash = (run) => dashes[run % dashes.length];

function trace(line) {
  const colour = taskColour(line.task);
  return {
    type: "scatter",
    name: line.name,
    x: line.x,
    y: line.y,
    mode: line.x.length > 25 ? "lines" : "lines+markers",
    line: { color: colour, width: 2, dash: dash(line.run) },
    marker: { color: colour, size: 5, symbol: symbols[Math.floor((line.task ?? 0) / 10) % symbols.length] },
    visible: !hidden.task.has(line.task) && !hidden.run.has(line.run),
  };
}

function verticalMark(mark) {
  return {
    type: "line", layer: "below", xref: "x", yref: "paper", x0: mark.step, x1: mark.step, y0: 0, y1: 1,
    line: { color: css("--soft"), width: 1, dash: dash(mark.run) },
  };
}

function horizontalMark(value) {
  return {
    type: "line", layer: "below", xref: "paper", yref: "y", x0: 0, x1: 1, y0: value, y1: value,
    line: { color: css("--soft"), width: 1 },
  };
}

function layout(figure) {
  const marks = figure.marks.filter((mark) => !hidden.run.has(mark.run)).map(verticalMark);
  const axis = { gridcolor: css("--rule"), linecolor: css("--rule"), zeroline: false, exponentformat: "e", minexponent: 6, automargin: true };
  return {
    font: { family: "system-ui, sans-serif", size: 13, color: css("--ink") },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    margin: { l: 56, r: 12, t: 8, b: 44 },
    showlegend: false,
    dragmode: touch ? false : "zoom",
    hovermode: "x unified",
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--rule"), font: { color: css("--ink") }, namelength: 40 },
    xaxis: { ...axis, rangemode: "tozero", title: { text: "step", standoff: 6, font: { size: 12 } } },
    yaxis: { ...axis, title: { text: figure.axis, standoff: 6, font: { size: 12 } }, tickformat: figure.percent ? ".0%" : "" },
    shapes: figure.reference === null ? marks : [...marks, horizontalMark(figure.reference)],
  };
}

function draw() {
  for (const dot of document.querySelectorAll("[data-colour]")) {
    dot.style.background = taskColour(Number(dot.dataset.colour));
  }
  for (const stroke of document.querySelectorAll("[data-dash]")) {
    stroke.style.strokeDasharray = dash(Number(stroke.dataset.dash)).replace("solid", "none");
  }
  for (const figure of figures) {
    const config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.react(figure.id, figure.lines.map(trace), layout(figure), config);
  }
}

function toggle(kind, button) {
  const index = Number(button.dataset[kind]);
  const shown = hidden[kind].delete(index);
  if (!shown) hidden[kind].add(index);
  button.setAttribute("aria-pressed", String(shown));
  draw();
}

for (const kind of ["task", "run"]) {
  for (const button of document.querySelectorAll(`button[data-${kind}]`)) {
    button.addEventListener("click", () => toggle(kind, button));
  }
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
