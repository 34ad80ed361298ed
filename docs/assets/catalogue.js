// The page to choose a model on: sorts and filters the table, draws the plot, and shows the lines to copy.
// Without this script the page is a plain table.
'use strict';

(() => {
  const root = document.getElementById('catalogue');
  const find = (selector) => root.querySelector(selector);
  const body = find('tbody');
  const filter = find('.cz-filter');
  const figure = find('.cz-figure');
  const title = find('#cz-chosen-title');
  const AXES = {
    params: { label: 'parameters, millions (log)', unit: 'M parameters', divide: 1e6 },
    gmacs: { label: 'multiply-adds of one image, billions (log)', unit: 'G multiply-adds', divide: 1 },
    cpu_images_per_second: { label: 'images a second on two CPU cores (log)', unit: 'images a second', divide: 1 },
  };
  const models = JSON.parse(find('#cz-data').textContent);
  let chosen = null;
  let opener = null; // what the reader chose the model by
  let name; // writes the name of a model beside its point

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function draw(tag, attributes, ...children) {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // The table

  [...body.rows].forEach((row, i) => {
    const model = models[i];
    model.row = row;
    model.button = make('button', { type: 'button', class: 'cz-pick', 'aria-pressed': 'false' });
    row.cells[0].prepend(model.button);
    model.button.append(row.cells[0].querySelector('code'));
    row.addEventListener('click', (event) => event.target.closest('a') || choose(model, model.button));
  });

  function sortBy(head) {
    const key = head.dataset.key;
    const up = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of find('thead').rows[0].cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const order = (a, b) => (typeof a === 'number' ? a - b : a.localeCompare(b, 'en', { numeric: true }));
    const sorted = [...models].sort((a, b) => {
      const [x, y] = [a[key], b[key]];
      // What is not known stays below, in either direction.
      if (x === null || y === null) return (x === null) - (y === null);
      return up ? order(x, y) : order(y, x);
    });
    body.append(...sorted.map((model) => model.row));
  }

  for (const head of find('thead').rows[0].cells) {
    const button = make('button', { type: 'button' }, ...head.childNodes);
    button.addEventListener('click', () => sortBy(head));
    head.replaceChildren(button);
  }

  function show() {
    const words = filter.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const model of models) {
      const text = [model.name, model.impl, model.trained_on, model.license].join(' ').toLowerCase();
      const hidden =
        (filter.weights.checked && !model.tag) ||
        (filter.impl.value && filter.impl.value !== model.impl) ||
        !words.every((word) => text.includes(word));
      model.row.hidden = Boolean(hidden);
    }
    const count = models.filter((model) => !model.row.hidden).length;
    filter.querySelector('output').textContent = `${count} of ${models.length}`;
    plot();
  }

  for (const impl of new Set(models.map((model) => model.impl))) filter.impl.append(make('option', {}, impl));
  filter.addEventListener('input', show);
  filter.addEventListener('submit', (event) => event.preventDefault());

  // The plot

  function ticks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of high / low < 12 ? [1, 1.5, 2, 3, 4, 6, 8] : [1, 2, 5]) found.push(Number(`${digit}e${power}`));
    }
    return found.filter((tick) => tick >= low && tick <= high);
  }

  function plot() {
    const key = find('input[name=cz-axis]:checked').value;
    const axis = AXES[key];
    const all = models.filter((m) => m.top1 !== null && m.num_classes === 1000 && m[key] !== null);
    const shown = all.filter((model) => !model.row.hidden);
    const held = shown.find((model) => model.point && model.point === document.activeElement);
    const width = figure.clientWidth;
    const height = Math.round(Math.min(380, Math.max(260, width * 0.6)));
    const [left, right, top, bottom] = [44, width - 12, 22, height - 46];
    const value = (model) => model[key] / axis.divide;
    const values = all.map(value);
    const [low, high] = [Math.min(...values) / 1.2, Math.max(...values) * 1.2];
    const [worst, best] = [Math.min(...all.map((m) => m.top1)) - 0.7, Math.max(...all.map((m) => m.top1)) + 0.7];
    const x = (v) => left + ((Math.log(v) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (right - left);
    const y = (v) => bottom - ((v - worst) / (best - worst)) * (bottom - top);
    const about = `Top-1 accuracy against ${axis.label}; ${shown.length} models`;
    const svg = draw('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': about });
    const label = draw('text', { class: 'cz-label', 'aria-hidden': 'true' });
    name = (model) => {
      label.replaceChildren();
      if (!model?.point) return;
      const [start, [px, py]] = [model.at[0] < width / 2, model.at];
      label.setAttribute('text-anchor', start ? 'start' : 'end');
      model.point.getAttribute('aria-label').split(': ').forEach((line, i) => {
        label.append(draw('tspan', { x: start ? px + 13 : px - 13, y: py - 2 + 15 * i }, line));
      });
    };

    for (const tick of ticks(low, high)) {
      svg.append(draw('line', { x1: x(tick), x2: x(tick), y1: top, y2: bottom, class: 'cz-grid' }));
      svg.append(draw('text', { x: x(tick), y: bottom + 18, 'text-anchor': 'middle' }, String(tick)));
    }
    for (let tick = Math.ceil(worst); tick <= best; tick++) {
      svg.append(draw('line', { x1: left, x2: right, y1: y(tick), y2: y(tick), class: 'cz-grid' }));
      svg.append(draw('text', { x: left - 8, y: y(tick) + 4, 'text-anchor': 'end' }, String(tick)));
    }
    svg.append(draw('text', { x: (left + right) / 2, y: height - 8, 'text-anchor': 'middle' }, axis.label));
    svg.append(draw('text', { x: 2, y: 12 }, 'top-1, %; ● ImageNet-1k alone, ◆ ImageNet-12k first'));

    for (const model of models) model.point = null;
    for (const model of [...shown].sort((a, b) => value(b) - value(a))) {
      const [px, py] = [x(value(model)), y(model.top1)];
      const text = `${model.name}: ${model.top1.toFixed(1)} %, ${+value(model).toPrecision(3)} ${axis.unit}`;
      const attributes = { role: 'button', tabindex: 0, class: 'cz-point', 'aria-label': text, 'data-name': model.name };
      const shape = model.trained_on.startsWith('ImageNet-12k')
        ? draw('path', { d: `M${px} ${py - 8}l8 8l-8 8l-8-8z`, class: 'cz-mark' })
        : draw('circle', { cx: px, cy: py, r: 6, class: 'cz-mark' });
      model.at = [px, py];
      model.point = draw('g', attributes, draw('circle', { cx: px, cy: py, r: 13, class: 'cz-target' }), shape);
      model.point.addEventListener('click', () => choose(above(model, shown), model.point));
      for (const event of ['mouseenter', 'focus']) model.point.addEventListener(event, () => name(model));
      for (const event of ['mouseleave', 'blur']) model.point.addEventListener(event, () => name(chosen));
      model.point.addEventListener('keydown', (event) => {
        if (event.key !== 'Enter' && event.key !== ' ') return;
        event.preventDefault();
        choose(model, model.point);
      });
      svg.append(model.point);
    }
    svg.append(label);
    figure.replaceChildren(svg);
    find('.cz-speeds').hidden = key !== 'cpu_images_per_second';
    mark();
    held?.point.focus();
  }

  // Points that lie upon each other are chosen in turn.
  function above(model, shown) {
    const near = shown.filter((m) => Math.hypot(m.at[0] - model.at[0], m.at[1] - model.at[1]) < 6);
    return near.includes(chosen) ? near[(near.indexOf(chosen) + 1) % near.length] : model;
  }

  find('fieldset').addEventListener('input', plot);

  // The chosen model

  function mark() {
    name(chosen);
    for (const model of models) {
      model.row.classList.toggle('cz-on', model === chosen);
      model.button.setAttribute('aria-pressed', model === chosen);
      model.point?.classList.toggle('cz-on', model === chosen);
      model.point?.setAttribute('aria-pressed', model === chosen);
    }
  }

  async function copy(code, button) {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code); // a page from a folder may not use the clipboard directly
      document.execCommand('copy');
    }
    button.textContent = 'Copied';
    setTimeout(() => (button.textContent = 'Copy'), 2000);
  }

  function choose(model, by) {
    chosen = model;
    opener = by.classList.contains('cz-point') ? () => model.point : () => model.button;
    title.replaceChildren(...model.button.firstChild.cloneNode(true).childNodes);
    const facts = [model.impl, `${(model.params / 1e6).toFixed(1)} M parameters`, `${model.img_size} pixels`];
    if (model.top1 !== null) facts.push(`${model.top1.toFixed(1)} % top-1`);
    facts.push(model.tag ? `trained on ${model.trained_on}` : 'no weights');
    const blocks = Object.entries(model.lines).map(([what, text]) => {
      const code = make('code', { tabindex: 0 }, text);
      const button = make('button', { type: 'button', 'aria-label': `Copy: ${what}`, 'aria-live': 'polite' }, 'Copy');
      button.addEventListener('click', () => copy(code, button));
      return make('div', { class: 'cz-line' }, make('h3', {}, what), button, make('pre', {}, code));
    });
    find('.cz-lines').replaceChildren(make('p', {}, facts.join(' · ')), ...blocks);
    find('.cz-back').hidden = false;
    mark();
    title.focus();
  }

  find('.cz-back').addEventListener('click', () => {
    const back = opener();
    (back && !chosen.row.hidden ? back : find('.cz-scroll')).focus();
  });

  find('.cz-look').hidden = false;
  filter.hidden = false;
  show();
  new ResizeObserver(plot).observe(figure);
})();
