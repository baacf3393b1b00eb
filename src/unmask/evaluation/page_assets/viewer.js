'use strict';

/** Two ways to decode a prompt, filled in step by step. Step n reveals what has `revealed_at` n - 1. */
class Viewer {
  constructor() {
    this.timer = null;
    this.sides = ['left', 'right'].map((id) => ({ at: $(`#${id}`), shown: null, spans: [], texts: [] }));
    $('#prompt').addEventListener('change', () => this.choosePrompt());
    this.sides.forEach((side) => $('select', side.at).addEventListener('change', () => this.chooseSides()));
    $('#previous').addEventListener('click', () => { this.pause(); this.go(this.step - 1); });
    $('#next').addEventListener('click', () => { this.pause(); this.go(this.step + 1); });
    $('#play').addEventListener('click', () => this.toggle());
    $('#step').addEventListener('input', (event) => { this.pause(); this.go(event.target.valueAsNumber); });
    $('#speed').addEventListener('change', () => { if (this.timer) { this.pause(); this.play(); } });
    $$('input[name=colour]').forEach((one) => one.addEventListener('change', () => { this.paint(); if (this.drawn) this.drawMap(); }));
    document.addEventListener('keydown', (event) => this.onKey(event));
    this.choosePrompt();
  }

  /** Space plays, where it would not do something else and the viewer is in sight. */
  onKey(event) {
    const { top, bottom } = $('#steps').getBoundingClientRect();
    const inSight = top < window.innerHeight && bottom > 0;
    if (event.key !== ' ' || !inSight || event.target.closest('input, select, textarea, button, summary, a')) return;
    event.preventDefault();
    this.toggle();
  }

  choosePrompt() {
    const index = Number($('#prompt').value);
    this.choices = data.shown.filter((shown) => shown.index === index);
    this.sides.forEach((side, place) => {
      const select = $('select', side.at);
      const before = select.selectedOptions[0]?.text;
      select.replaceChildren(...this.choices.map((shown, i) => new Option(shown.name, i)));
      const same = this.choices.findIndex((shown) => shown.name === before);
      select.value = same < 0 ? Math.min(place, this.choices.length - 1) : same;
      side.at.hidden = place >= this.choices.length;
    });
    $('#prompt-text').textContent = this.choices[0].prompt;
    this.chooseSides();
  }

  chooseSides() {
    this.pause();
    this.live = this.sides.filter((side) => !side.at.hidden);
    this.live.forEach((side) => this.fill(side, this.choices[Number($('select', side.at).value)]));
    this.last = Math.max(...this.live.map((side) => side.shown.nfe));
    $('#step').max = this.last;
    this.go(this.last);
    if (this.drawn) this.drawMap();
  }

  fill(side, shown) {
    const eos = shown.words[shown.end.indexOf(true)];
    side.shown = shown;
    side.texts = shown.words.map((word, i) => (shown.end[i] && word === eos ? '◇' : word.replaceAll('\n', '↵\n')));
    side.spans = shown.words.map((word, i) => {
      const span = document.createElement('span');
      span.title = place(shown, i);
      return span;
    });
    $('.tokens', side.at).replaceChildren(...side.spans);
    const verdict = document.createElement('strong');
    verdict.textContent = shown.correct ? 'right' : 'wrong';
    // Of a prompt of the user's own nobody knows the answer.
    $('.verdict', side.at).replaceChildren(...(shown.correct === null ? [] : [verdict, `, gold answer: ${shown.gold}`]));
  }

  go(step) {
    this.step = Math.min(Math.max(step, 0), this.last);
    const slider = $('#step');
    slider.value = this.step;
    slider.setAttribute('aria-valuetext', `step ${this.step} of ${this.last}`);
    $('#count').textContent = `${this.step} of ${this.last}`;
    if (this.step === this.last) this.pause();
    this.paint();
    if (this.drawn) Plotly.relayout('map', { shapes: this.marks() });
  }

  paint() {
    this.live.forEach((side) => {
      const { shown, spans, texts } = side;
      spans.forEach((span, i) => {
        const at = shown.revealed_at[i];
        const seen = at >= 0 && at < this.step;
        span.textContent = seen ? texts[i] : '·';
        span.className = ['token', !seen && 'masked', seen && shown.end[i] && 'end', at === this.step - 1 && seen && 'new']
          .filter(Boolean).join(' ');
        if (seen) span.dataset.level = this.level(shown, i);
        else delete span.dataset.level;
      });
      $('.status', side.at).textContent = this.status(shown);
    });
    const byStep = this.byStep();
    $('#scale-low').textContent = byStep ? 'step 1' : 'confidence 0';
    $('#scale-high').textContent = byStep ? `step ${this.last}` : '1';
  }

  status(shown) {
    const revealed = shown.revealed_at.filter((at) => at >= 0 && at < this.step).length;
    const counts = `NFE ${Math.min(this.step, shown.nfe)} of ${shown.nfe}; ${revealed} of ${shown.words.length} revealed`;
    const done = { complete: 'done', eos: 'done, the rest left masked', budget: 'out of steps' }[shown.ended] ?? shown.ended;
    return this.step < shown.nfe ? counts : `${counts}; ${done} at step ${shown.nfe}`;
  }

  byStep() {
    return $('input[name=colour]:checked').value === 'step';
  }

  /** Shade of a token: both sides share a scale, so that an equal shade is an equal step. */
  level(shown, i) {
    const share = this.byStep() ? shown.revealed_at[i] / this.last : shown.confidence[i] ?? 0;
    return Math.min(LEVELS - 1, Math.floor(LEVELS * share));
  }

  toggle() {
    if (this.timer) this.pause();
    else this.play();
  }

  play() {
    if (this.step === this.last) this.go(0);
    this.timer = setInterval(() => this.go(this.step + 1), 1000 / Number($('#speed').value));
    $('#play').textContent = 'Pause';
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    $('#play').textContent = 'Play';
  }

  drawMap() {
    const scale = Array.from({ length: LEVELS }, (_, i) => colour(`scale-${i}`));
    const stacked = narrow.matches && this.live.length > 1;
    const traces = this.live.map(({ shown }, side) => {
      const places = shown.revealed_at.flatMap((at, i) => (at < 0 ? [] : [i]));
      return { type: 'scatter', mode: 'markers', showlegend: false, xaxis: `x${side + 1}`, yaxis: `y${side + 1}`,
        x: places.map((i) => i + 1), y: places.map((i) => shown.revealed_at[i] + 1),
        text: places.map((i) => escaped(place(shown, i))), hoverinfo: 'text',
        marker: { symbol: 'square', size: 7, color: places.map((i) => scale[this.level(shown, i)]),
          line: { color: colour('muted'), width: 0.75 } } };
    });
    const axes = Object.fromEntries(this.live.flatMap(({ shown }, side) => [
      [`xaxis${side + 1}`, axis('position', { range: [0, shown.words.length + 1] })],
      [`yaxis${side + 1}`, axis(side && !stacked ? '' : 'step', { range: [1.03 * this.last, -0.03 * this.last] })],
    ]));
    Plotly.react('map', traces, layout(stacked ? 560 : 340, {
      ...axes,
      shapes: this.marks(),
      grid: { pattern: 'independent', rows: stacked ? 2 : 1, columns: stacked ? 1 : this.live.length, ygap: 0.35, xgap: 0.1 },
      annotations: this.live.map(({ shown }, side) => titled(label(shown.name), side)),
    }), config());
    this.drawn = true;
  }

  /** A line at the present step, in each map. */
  marks() {
    return this.live.map((_, side) => ({ type: 'line', xref: `x${side ? 2 : ''} domain`, yref: `y${side ? 2 : ''}`, x0: 0, x1: 1,
      y0: this.step, y1: this.step, line: { color: colour('accent'), width: 2 } }));
  }
}

function place(shown, i) {
  const at = shown.revealed_at[i];
  if (at < 0) return `position ${i + 1}, left masked`;
  return `position ${i + 1}, step ${at + 1}, confidence ${shown.confidence[i]}: ${JSON.stringify(shown.words[i])}`;
}

{
  const viewer = new Viewer();
  addPlot('map', () => viewer.drawMap());
}
