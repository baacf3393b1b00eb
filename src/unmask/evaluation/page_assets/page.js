'use strict';

const LEVELS = 7;
const SYMBOLS = ['circle', 'square', 'diamond', 'triangle-up', 'cross', 'x', 'triangle-down', 'pentagon', 'hourglass',
  'hexagon', 'bowtie'];
const LEARNED_SYMBOLS = ['star', 'star-diamond', 'hexagram', 'star-square'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash'];
const PAGE_WIDTH = 680; // of a plot on paper, in CSS pixels
const BUTTONS = [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]; // named, since Plotly's own choice sends data away

const data = JSON.parse(document.getElementById('data').textContent);
const root = document.documentElement;
const redraws = []; // one a plot: draws it anew, in the colours and the width of the moment
const narrow = window.matchMedia('(max-width: 40rem)');
const dark = window.matchMedia('(prefers-color-scheme: dark)');
let printing = false;

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- Colours and theme

const probe = document.body.appendChild(document.createElement('span'));
probe.hidden = true;

/** What a custom property of the style sheet is in the present theme. */
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** Plotly reads some HTML in text; escaped, it shows what the data says. */
const escaped = (text) => String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** A name in a legend or above a plot. */
const label = (name) => escaped(name.length > 40 ? `${name.slice(0, 39)}…` : name);

function redraw() {
  redraws.forEach((draw) => draw());
}

/** Draws a plot once it comes near, or goes to the printer: the page is there at once. */
function addPlot(id, draw) {
  let near = false;
  redraws.push(() => { if (near || printing) draw(); });
  new IntersectionObserver((entries, observer) => {
    if (near || !entries.some((entry) => entry.isIntersecting)) return;
    near = true;
    observer.disconnect();
    draw();
  }, { rootMargin: '300px' }).observe(document.getElementById(id));
}

function setUpTheme() {
  const button = $('#theme');
  let chosen = null; // until then the system's
  const isDark = () => chosen ?? dark.matches;
  const apply = () => {
    root.style.colorScheme = printing ? 'light' : chosen === null ? '' : chosen ? 'dark' : 'light';
    button.setAttribute('aria-pressed', String(isDark()));
    redraw();
  };
  button.addEventListener('click', () => { chosen = !isDark(); apply(); });
  dark.addEventListener('change', apply);
  narrow.addEventListener('change', redraw);
  window.addEventListener('beforeprint', () => { printing = true; apply(); });
  window.addEventListener('afterprint', () => { printing = false; apply(); });
  apply();
}

// ---- Tables

function setUpSorting(table) {
  $$('thead th', table).forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => sortBy(table, head, column));
  });
}

function sortBy(table, head, column) {
  const rising = head.getAttribute('aria-sort') !== 'ascending';
  const numeric = head.classList.contains('n');
  const key = (row) => {
    const cell = row.cells[column];
    return numeric ? parseFloat(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, 'en', { numeric: true }));
  const rows = $$('tbody tr', table).map((row) => [key(row), row]);
  const [missing, known] = [rows.filter(([k]) => Number.isNaN(k)), rows.filter(([k]) => !Number.isNaN(k))];
  known.sort(([a], [b]) => (rising ? compare(a, b) : compare(b, a)));
  $('tbody', table).append(...[...known, ...missing].map(([, row]) => row)); // what is not known comes last either way
  $$('thead th', table).forEach((th) => th.setAttribute('aria-sort', 'none'));
  head.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
}

function setUpFilter(input) {
  const rows = $$('#cells-table tbody tr');
  input.addEventListener('input', () => {
    const words = input.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => {
      const names = [row.cells[0], $('summary', row), row.cells[2]].map((one) => one.textContent.toLowerCase()).join(' ');
      row.hidden = !words.every((word) => names.includes(word));
    });
    $('#filtered').textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} cells`;
  });
}

// ---- Plots

function axis(title, more) {
  return { title: { text: title, standoff: 8 }, color: colour('ink'), gridcolor: colour('line'), zeroline: false,
    linecolor: colour('muted'), automargin: true, ...more };
}

function layout(height, more) {
  const paper = printing ? 'white' : colour('paper');
  return {
    height,
    width: printing ? PAGE_WIDTH : undefined,
    paper_bgcolor: paper,
    plot_bgcolor: paper,
    font: { family: getComputedStyle(root).fontFamily, size: 13, color: colour('ink') },
    hoverlabel: { bgcolor: paper, bordercolor: colour('muted'), align: 'left',
      font: { family: getComputedStyle(root).fontFamily, size: 12, color: colour('ink') } },
    modebar: { bgcolor: 'rgba(0,0,0,0)', color: colour('muted'), activecolor: colour('accent') },
    margin: { l: 50, r: 12, t: 28, b: 44 },
    dragmode: narrow.matches ? false : 'zoom', // a finger scrolls the page
    hovermode: 'closest',
    ...more,
  };
}

function config() {
  return { responsive: true, displaylogo: false, plotlyServerURL: '', modeBarButtons: BUTTONS,
    displayModeBar: narrow.matches ? false : 'hover' };
}

/** Beside the plot, or below it where there is no room. */
function legend() {
  const below = { orientation: 'h', yref: 'container', y: 0, yanchor: 'bottom', x: 0 };
  return narrow.matches || printing ? below : { x: 1.02, y: 1 };
}

/** Fewest passes first; each cell more accurate than all before it. */
function frontier(cells) {
  let best = -1;
  return cells.toSorted((a, b) => a.nfe.mean - b.nfe.mean || b.accuracy.mean - a.accuracy.mean)
    .filter((cell) => cell.accuracy.mean > best && (best = cell.accuracy.mean, true));
}

function bars(intervals, scale, tint) {
  return { type: 'data', symmetric: false, color: tint, thickness: 1, width: 0,
    array: intervals.map((one) => scale * (one.high - one.mean)),
    arrayminus: intervals.map((one) => scale * (one.mean - one.low)) };
}

function cellTrace(cells, style, more) {
  return {
    type: 'scatter', x: cells.map((cell) => cell.nfe.mean), y: cells.map((cell) => 100 * cell.accuracy.mean),
    error_x: bars(cells.map((cell) => cell.nfe), 1, style.colour),
    error_y: bars(cells.map((cell) => cell.accuracy), 100, style.colour),
    marker: { color: style.colour, symbol: style.symbol, size: style.learned ? 15 : 8,
      line: { color: colour('paper'), width: style.learned ? 1 : 0 } },
    line: { color: style.colour, width: style.learned ? 2.5 : 1.5 },
    text: cells.map((cell) => cell.hover.map(escaped).join('<br>')), hoverinfo: 'text',
    customdata: cells.map((cell) => data.cells.indexOf(cell)), legendgroup: style.rule, name: label(style.rule), ...more,
  };
}

/** Of each rule; heuristics first, so that learned policies are drawn over them. */
function ruleStyles() {
  const counts = [0, 0];
  return [...new Set(data.cells.map((cell) => cell.rule))].map((rule) => {
    const learned = data.cells.some((cell) => cell.rule === rule && cell.learned);
    const place = counts[Number(learned)]++;
    const symbols = learned ? LEARNED_SYMBOLS : SYMBOLS;
    return { rule, learned, colour: colour(learned ? `learned-${place % 3}` : `rule-${place % 8}`),
      symbol: symbols[place % symbols.length] };
  }).toSorted((a, b) => a.learned - b.learned);
}

/** What an oracle reaches, in the ink of the page: it is no rule. */
function boundTrace(one, place) {
  return { type: 'scatter', mode: 'markers', x: [one.nfe.mean], y: [100 * one.accuracy.mean], name: label(one.name),
    text: [`${escaped(one.name)}<br>${(100 * one.accuracy.mean).toFixed(1)}% @ ${one.nfe.mean.toFixed(1)}`],
    hoverinfo: 'text', legendrank: 1500,
    marker: { symbol: ['cross-thin', 'x-thin'][place % 2], size: 16, line: { color: colour('ink'), width: 2.5 } } };
}

function drawCells() {
  const kind = $('input[name=blocks]:checked')?.value ?? '';
  const shown = data.cells.filter((cell) => !kind || cell.blocks === kind);
  const common = frontier(shown);
  const traces = [{ type: 'scatter', mode: 'lines', name: 'frontier of all', visible: 'legendonly', hoverinfo: 'skip',
    x: common.map((cell) => cell.nfe.mean), y: common.map((cell) => 100 * cell.accuracy.mean), legendrank: 2000,
    line: { color: colour('muted'), width: 5, dash: 'dot' } }];
  const styles = ruleStyles();
  for (const style of styles) {
    const cells = shown.filter((cell) => cell.rule === style.rule);
    const best = frontier(cells);
    const rest = cells.filter((cell) => !best.includes(cell));
    if (rest.length) traces.push(cellTrace(rest, style, { mode: 'markers', opacity: 0.3, showlegend: false }));
    if (best.length) traces.push(cellTrace(best, style, { mode: 'lines+markers' }));
  }
  if (!kind || kind === 'full') traces.push(...data.bounds.filter((one) => one.nfe.mean !== null).map(boundTrace));
  const below = narrow.matches || printing ? 14 * styles.length : 0;
  Plotly.react('accuracy-plot', traces, layout(500 + below, {
    legend: legend(),
    xaxis: axis('NFE, forward passes per prompt', { rangemode: 'tozero' }),
    yaxis: axis('accuracy, %', { rangemode: 'tozero' }),
  }), config());
  const plot = $('#accuracy-plot');
  plot.removeAllListeners('plotly_click');
  plot.on('plotly_click', openRow);
}

function openRow(event) {
  if (event.points[0].customdata === undefined) return; // an oracle
  const row = $(`#cell-${event.points[0].customdata}`);
  $('details', row).open = true;
  window.location.hash = row.id;
}

function drawTraining() {
  const metric = $('#metric')?.value;
  const metrics = metric ? [metric] : data.overview;
  const stacked = narrow.matches;
  const traces = metrics.flatMap((name, i) => data.training.filter((run) => name in run.series).map((run) => {
    const [steps, values] = run.series[name];
    const place = data.training.indexOf(run);
    return { type: 'scatter', mode: steps.length < 40 ? 'lines+markers' : 'lines', x: steps, y: values,
      name: label(run.name), legendgroup: run.name, showlegend: i === 0,
      xaxis: `x${i + 1}`, yaxis: `y${i + 1}`, marker: { size: 5 },
      line: { color: colour(`rule-${place % 8}`), dash: DASHES[place % DASHES.length], width: 1.8 } };
  }));
  const axes = Object.fromEntries(metrics.flatMap((name, i) => [
    [`xaxis${i + 1}`, axis('update', {})],
    [`yaxis${i + 1}`, axis('', { tickformat: name.endsWith('correct') ? '.0%' : '' })],
  ]));
  Plotly.react('training-plot', traces, layout(stacked ? 260 * metrics.length + 80 : 380, {
    ...axes,
    legend: { orientation: 'h', yref: 'container', y: 0, yanchor: 'bottom', x: 0 },
    grid: { pattern: 'independent', rows: stacked ? metrics.length : 1, columns: stacked ? 1 : metrics.length,
      ygap: 0.35, xgap: 0.18 },
    annotations: metrics.map((name, i) => titled(label(name.replace('nfe', 'NFE')), i)),
  }), config());
}

/** A title above a subplot. */
function titled(text, place) {
  const id = place ? place + 1 : '';
  return { text, showarrow: false, xref: `x${id} domain`, yref: `y${id} domain`, x: 0, y: 1, xanchor: 'left',
    yanchor: 'bottom', font: { size: 13, color: colour('ink') } };
}

$$('table.sorted').forEach(setUpSorting);
if ($('#filter')) setUpFilter($('#filter'));
if (data.cells.length) addPlot('accuracy-plot', drawCells);
if (data.training.length) addPlot('training-plot', drawTraining);
setUpTheme();
$('#blocks')?.addEventListener('change', drawCells);
$('#metric')?.addEventListener('change', drawTraining);
