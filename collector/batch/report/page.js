
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const facts = JSON.parse($("facts").textContent);
  const jobs = [];
  for (const block of document.querySelectorAll("script.rows")) {
    for (const row of JSON.parse(block.textContent)) jobs.push(row);
    block.remove();
  }
  document.documentElement.classList.add("live");

  // What a row holds, as html.py writes it.
  const KEY = 0, NAME = 1, INPUT = 2, STATUS = 3, ATTEMPTS = 4, SINCE = 5, METERS = 6;
  const TRY = { number: 0, status: 1, start: 2, seconds: 3, worker: 4, exit: 5, size: 6, error: 7 };
  const statusOf = (job) => facts.statuses[job[STATUS]];
  const lastOf = (job) => job[ATTEMPTS][job[ATTEMPTS].length - 1];
  const isFlaky = (job) => statusOf(job) === "done" && job[ATTEMPTS].some((each) => each[TRY.status] !== "done");
  const reasonOf = (each) => {
    if (each[TRY.error] || each[TRY.status] === "done") return each[TRY.error];
    const exit = each[TRY.exit];
    if (exit === null) return each[TRY.status];
    return each[TRY.status] + (exit < 0 ? ": signal " + -exit : ": exit status " + exit);
  };

  const digits = (number) => number < 9.995 ? String(+number.toFixed(2)) : number < 99.95 ? String(+number.toFixed(1)) : number.toFixed(0);
  const secondsText = (s) => {
    if (s < 1) return digits(s * 1000) + " ms";
    if (s < 60) return digits(s) + " s";
    const whole = Math.round(s);
    for (const [large, unit, small, part] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
      const rest = Math.floor(whole % unit / part);
      if (whole >= unit) return Math.floor(whole / unit) + " " + large + (rest ? " " + rest + " " + small : "");
    }
  };
  const sizeText = (size) => {
    if (size < 1000) return size + " B";
    for (const unit of ["KiB", "MiB", "GiB", "TiB", "PiB"]) {
      size /= 1024;
      if (size < 999.5 || unit === "PiB") return digits(size) + " " + unit;
    }
  };
  const inOrder = new Intl.Collator("en", { numeric: true }).compare;
  const timeText = (s, withDay) => {
    const date = new Date((facts.begin + s) * 1000);
    if (Number.isNaN(date.getTime())) return "?";
    const text = date.toISOString();
    return (withDay ? text.slice(0, 10) + " " : "") + text.slice(11, 19);
  };

  // -- the table ---------------------------------------------------------------------------------

  const ROW = 30, TALLEST = 8000000;
  const COLUMNS = [
    { id: "name", head: "Name", width: "", text: (job) => job[NAME] },
    { id: "status", head: "Status", width: "7.5rem", text: (job) => isFlaky(job) ? "flaky" : statusOf(job), tone: true },
    { id: "attempts", head: "Attempts", width: "6rem", number: (job) => job[ATTEMPTS].length, say: String },
    { id: "start", head: "Start (UTC)", width: "7rem", number: (job) => lastOf(job) ? lastOf(job)[TRY.start] : job[SINCE] ?? null, say: (s) => timeText(s) },
    { id: "seconds", head: "Time", width: "6rem", number: (job) => lastOf(job) ? lastOf(job)[TRY.seconds] : null, say: secondsText },
    { id: "bytes", head: "Bytes", width: "6rem", number: (job) => lastOf(job) ? lastOf(job)[TRY.size] : null, say: sizeText },
    { id: "worker", head: "Worker", width: "5.5rem", text: (job) => lastOf(job) ? lastOf(job)[TRY.worker] ?? "" : "" },
    { id: "input", head: "Input", width: "", text: (job) => job[INPUT] || "" },
    { id: "error", head: "Error", width: "", text: (job) => lastOf(job) ? reasonOf(lastOf(job)) : "" },
  ];
  const scroller = $("scroller"), filter = $("filter"), body = $("jobs").tBodies[0], heads = $("jobs").tHead.rows[0];
  let order = jobs.map((_, index) => index), sorted = null, active = 0, words = "", printing = false;

  for (const column of COLUMNS) {
    const head = make("th", undefined, column.number ? "number" : ""), button = make("button", column.head);
    head.scope = "col";
    head.style.width = column.width;
    button.type = "button";
    button.addEventListener("click", () => {
      const same = sorted && sorted.id === column.id;
      // A click more than two puts the jobs back in their own order.
      setSort(!same ? { id: column.id, down: Boolean(column.number) } : sorted.down === Boolean(column.number) ? { id: column.id, down: !sorted.down } : null);
      remember();
    });
    head.append(button);
    heads.append(head);
  }
  const setSort = (next) => {
    sorted = next;
    COLUMNS.forEach((column, at) => {
      if (sorted && sorted.id === column.id) heads.cells[at].setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else heads.cells[at].removeAttribute("aria-sort");
    });
    arrange();
  };

  const tests = {
    is: (job, word) => statusOf(job) === word || (word === "flaky" && isFlaky(job)) || (word === "retried" && job[ATTEMPTS].length > 1) ||
      Boolean(lastOf(job) && lastOf(job)[TRY.status] === word),
    worker: (job, word) => job[ATTEMPTS].some((each) => (each[TRY.worker] ?? "").toLowerCase() === word),
  };
  const texts = new Array(jobs.length);
  const textOf = (index) => {
    const job = jobs[index];
    return texts[index] ??= [job[NAME], job[INPUT] || "", job[KEY], ...job[ATTEMPTS].map(reasonOf)].join("\n").toLowerCase();
  };
  const matches = (text) => {
    const checks = text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const not = word.length > 1 && word[0] === "-";
      const bare = not ? word.slice(1) : word, at = bare.indexOf(":"), test = at > 0 && tests[bare.slice(0, at)];
      const holds = test ? (index) => test(jobs[index], bare.slice(at + 1)) : (index) => textOf(index).includes(bare);
      return not ? (index) => !holds(index) : holds;
    });
    return (index) => checks.every((holds) => holds(index));
  };
  const arrange = () => {
    const holds = matches(words);
    order = [];
    for (let index = 0; index < jobs.length; index++) if (holds(index)) order.push(index);
    const column = sorted && COLUMNS.find((each) => each.id === sorted.id);
    if (column) {
      const values = new Map(order.map((index) => [index, (column.number || column.text)(jobs[index])]));
      const sign = sorted.down ? -1 : 1;
      order.sort((a, b) => {
        const x = values.get(a), y = values.get(b);
        if (column.number) return x === null || y === null ? (x === null) - (y === null) || a - b : sign * (x - y) || a - b;
        return sign * inOrder(x, y) || a - b;
      });
    }
    active = 0;
    scroller.scrollTop = 0;
    $("shown").textContent = order.length === jobs.length ? jobs.length.toLocaleString("en") + " jobs"
      : order.length.toLocaleString("en") + " of " + jobs.length.toLocaleString("en") + " jobs";
    $("jobs").setAttribute("aria-rowcount", String(order.length + 1));
    show();
  };

  const gap = (height) => {
    const row = make("tr"), cell = make("td", undefined, "gap");
    cell.colSpan = COLUMNS.length;
    row.setAttribute("aria-hidden", "true");
    cell.style.height = height + "px";
    row.append(cell);
    return row;
  };
  const rowOf = (at) => {
    const job = jobs[order[at]], row = make("tr", undefined, "row");
    row.tabIndex = at === active ? 0 : -1;
    row.dataset.at = String(at);
    row.setAttribute("aria-rowindex", String(at + 2));
    for (const column of COLUMNS) {
      const value = (column.number || column.text)(job);
      const text = column.number ? (value === null ? "" : column.say(value)) : value;
      const cell = make("td", text, column.number ? "number" : column.tone ? "status is-" + text : "");
      if (!column.number && text.length > 20) cell.title = text;
      if ((column.id === "name" || column.id === "input") && /^[ -~]{12,}$/.test(text)) {
        // Names of files differ at their ends: what does not fit is left out in front of them.
        const parts = make("div", undefined, "parts");
        parts.append(make("span", text.slice(0, -9)), make("span", text.slice(-9)));
        cell.replaceChildren(parts);
      }
      row.append(cell);
    }
    return row;
  };
  // Where there are more rows than an element can be high, the bar scrolls in larger steps.
  const heightOfAll = () => Math.min(order.length * ROW, TALLEST);
  const room = () => Math.max(1, scroller.clientHeight - heads.offsetHeight);
  const firstAt = () => {
    const span = heightOfAll() - room();
    return span <= 0 ? 0 : Math.min(1, scroller.scrollTop / span) * Math.max(0, order.length - room() / ROW);
  };
  const show = () => {
    const focused = body.contains(document.activeElement);
    if (printing) {
      body.replaceChildren(...order.slice(0, 500).map((_, at) => rowOf(at)));
      return;
    }
    const frame = scroller.offsetHeight - scroller.clientHeight;
    scroller.style.maxHeight = heads.offsetHeight + Math.max(1, jobs.length) * ROW + frame + "px";
    const first = Math.max(0, Math.floor(firstAt()) - 5), last = Math.min(order.length, first + Math.ceil(room() / ROW) + 10);
    const rows = [];
    for (let at = first; at < last; at++) rows.push(rowOf(at));
    const above = Math.max(0, Math.min(scroller.scrollTop - (firstAt() - first) * ROW, heightOfAll() - rows.length * ROW));
    const before = first === 0 ? 0 : above;
    if (!rows.length) {
      const row = make("tr"), cell = make("td", jobs.length ? "No job is like that." : "No job has begun yet.", "none");
      cell.colSpan = COLUMNS.length;
      row.append(cell);
      rows.push(row);
    }
    body.replaceChildren(gap(before), ...rows, gap(Math.max(0, heightOfAll() - before - (last - first) * ROW)));
    if (focused) body.querySelector('tr[data-at="' + active + '"]')?.focus({ preventScroll: true });
  };
  const moveTo = (at) => {
    active = Math.max(0, Math.min(order.length - 1, at));
    const rows = room() / ROW, first = firstAt(), span = order.length - rows;
    const wanted = active < first ? active : active + 1 > first + rows ? active + 1 - rows : first;
    if (wanted !== first && span > 0) scroller.scrollTop = wanted / span * (heightOfAll() - room());
    show();
    body.querySelector('tr[data-at="' + active + '"]')?.focus({ preventScroll: true });
  };
  let waiting = false;
  const later = (act) => () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; act(); });
  };
  scroller.addEventListener("scroll", later(() => show()));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr.row");
    if (row && !String(getSelection())) { active = Number(row.dataset.at); openJob(order[active]); }
  });
  body.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(room() / ROW) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step) moveTo(active + step);
    else if (event.key === "Enter" || event.key === " ") openJob(order[active]);
    else return;
    event.preventDefault();
  });
  let typing = 0;
  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { words = filter.value; arrange(); remember(); }, jobs.length > 20000 ? 150 : 30);
  });

  // -- one job -----------------------------------------------------------------------------------

  const openJob = (index) => {
    const job = jobs[index], inside = $("job-body"), list = make("dl");
    $("job-name").textContent = job[NAME];
    const tell = (name, value) => { const part = make("div"); part.append(make("dt", name), make("dd", value)); list.append(part); };
    tell("Status", isFlaky(job) ? "done, flaky" : statusOf(job));
    if (job[INPUT]) tell("Input", job[INPUT]);
    tell("Key", job[KEY]);
    if (typeof job[SINCE] === "number") tell("Began, and has not ended", timeText(job[SINCE], true) + " UTC");
    for (const [name, value] of Object.entries(job[METERS] || {})) tell(name, String(value));
    inside.replaceChildren(list);
    if (job[ATTEMPTS].length) {
      const table = make("table"), head = make("tr");
      for (const name of ["Attempt", "Result", "Start (UTC)", "Time", "Bytes", "Worker", "Error"]) head.append(make("th", name));
      table.append(head);
      for (const each of job[ATTEMPTS]) {
        const row = make("tr");
        for (const text of [each[TRY.number], each[TRY.status], timeText(each[TRY.start], true), secondsText(each[TRY.seconds]),
          sizeText(each[TRY.size]), each[TRY.worker] ?? "", reasonOf(each)]) row.append(make("td", String(text)));
        table.append(row);
      }
      const wide = make("div", undefined, "wide");
      wide.append(table);
      inside.append(wide);
      const log = statusOf(job) === "failed" && document.getElementById(job[KEY]);
      if (log) {
        for (const pre of log.querySelectorAll("pre")) inside.append(make("p", pre.getAttribute("aria-label") + ":"), make("pre", pre.textContent));
      }
      const line = make("p", "Its output, and its log with --log: ");
      line.append(make("code", "collector cat " + facts.dir + " " + job[KEY] + (statusOf(job) === "failed" ? " --failed" : "")));
      inside.append(line);
    }
    $("job").showModal();
    $("job").scrollTop = 0;
  };
  $("job").addEventListener("click", (event) => { if (event.target === $("job")) $("job").close(); });

  // -- the timeline ------------------------------------------------------------------------------

  const canvas = document.querySelector("#timeline canvas"), tip = $("tip"), pen = canvas.getContext("2d");
  const bars = [];
  jobs.forEach((job, index) => {
    for (const each of job[ATTEMPTS]) {
      bars.push({ job: index, from: each[TRY.start], to: each[TRY.start] + each[TRY.seconds], worker: each[TRY.worker],
        tone: each[TRY.status] === "done" ? "done" : "failed", each });
    }
    if (typeof job[SINCE] === "number") {
      const to = (statusOf(job) === "running" ? facts.time : facts.end) - facts.begin;
      bars.push({ job: index, from: job[SINCE], to: Math.max(job[SINCE], to), worker: null, tone: statusOf(job) === "running" ? "running" : "interrupted" });
    }
  });
  bars.sort((a, b) => a.from - b.from);
  const workers = [...new Set(bars.map((bar) => bar.worker))].sort((a, b) => (a === null) - (b === null) || inOrder(a, b));
  const laneOf = new Map(workers.map((worker, lane) => [worker, lane]));
  // A span in which nothing ran, between two runs say, is drawn as a narrow break.
  let busy = 0, until = bars.length ? bars[0].from : 0;
  const spans = [];
  for (const bar of bars) {
    if (bar.from > until || !spans.length) spans.push({ from: bar.from, to: bar.to });
    const span = spans[spans.length - 1];
    span.to = until = Math.max(span.to, bar.to);
  }
  for (const span of spans) busy += span.to - span.from;
  const narrow = Math.max(busy * 0.02, 1e-6), breaks = [];
  let at = 0;
  const pieces = [];
  for (const span of spans) {
    const before = pieces[pieces.length - 1];
    if (before && span.from - before.to <= Math.max(busy * 0.1, narrow * 2)) {
      at += span.to - before.to;
      before.to = span.to;
      before.end = at;
      continue;
    }
    if (before) { breaks.push({ at, idle: span.from - before.to }); at += narrow; }
    pieces.push({ from: span.from, to: span.to, start: at, end: at += span.to - span.from });
  }
  const whole = Math.max(at, 1e-6);
  const pieceAt = (value, low) => {
    let left = 0, right = pieces.length - 1;
    while (left < right) { const middle = (left + right + 1) >> 1; if (pieces[middle][low] <= value) left = middle; else right = middle - 1; }
    return pieces[left];
  };
  const drawn = (s) => { const piece = pieceAt(s, "from"); return piece.start + Math.min(s, piece.to) - piece.from; };
  const meant = (x) => { const piece = pieceAt(x, "start"); return piece.from + Math.max(0, Math.min(x, piece.end) - piece.start); };
  for (const bar of bars) { bar.x0 = drawn(bar.from); bar.x1 = Math.max(bar.x0, drawn(bar.to)); bar.lane = laneOf.get(bar.worker); }

  const PALETTES = {
    light: { paper: "#ffffff", ink: "#1b1f24", dim: "#59636e", line: "#d1d9e0", done: "#2d8659", failed: "#c62f3a", running: "#2f6fd0", interrupted: "#a86400", onBar: "#ffffff" },
    dark: { paper: "#0f1419", ink: "#e4e9ee", dim: "#9aa6b2", line: "#333d47", done: "#46b37e", failed: "#ff6b72", running: "#6aa5ff", interrupted: "#e0a13c", onBar: "#08130d" },
  };
  const isDark = matchMedia("(prefers-color-scheme: dark)");
  const AXIS = 24;
  const labelOf = (worker) => worker === null ? "other" : "worker " + worker;
  const longest = workers.map(labelOf).reduce((one, other) => other.length > one.length ? other : one, "");
  pen.font = "12px system-ui, sans-serif";
  const LEFT = Math.min(160, Math.ceil(pen.measureText(longest).width) + 12);
  let view = { from: 0, to: whole }, selecting = null;
  const laneHeight = () => Math.max(4, Math.min(22, Math.floor(360 / Math.max(1, workers.length))));
  const wide = () => Math.max(50, $("timeline").clientWidth - LEFT - 8);
  const toX = (value) => LEFT + (value - view.from) / (view.to - view.from) * wide();
  const draw = () => {
    const paint = PALETTES[isDark.matches && !printing ? "dark" : "light"], high = laneHeight(), scale = window.devicePixelRatio || 1;
    const width = wide() + LEFT + 8, height = AXIS + workers.length * high + 6;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = width + "px";
    canvas.style.height = height + "px";
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = paint.paper;
    pen.fillRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    if (!bars.length) { pen.fillStyle = paint.dim; pen.fillText("Nothing has run yet.", 10, 14); return; }
    ticks(paint, height);
    pen.textAlign = "left";
    pen.fillStyle = paint.dim;
    const every = Math.ceil(14 / high);
    workers.forEach((worker, lane) => {
      if (lane % every === 0) pen.fillText(labelOf(worker), 4, AXIS + lane * high + high / 2, LEFT - 8);
    });
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, wide() + 1, height);
    pen.clip();
    const columns = Math.ceil(wide()) + 1, share = new Float32Array(columns * workers.length), bad = new Float32Array(share.length), marks = [];
    for (const bar of bars) {
      if (bar.x1 < view.from || bar.x0 > view.to) continue;
      const x0 = toX(bar.x0), x1 = toX(bar.x1), y = AXIS + bar.lane * high;
      if (x1 - x0 < 1.5 && (bar.tone === "done" || bar.tone === "failed")) {
        // Too narrow to be seen: how busy the worker was in that column is what is drawn.
        const column = Math.floor(x0 - LEFT), part = Math.max(0.08, x1 - x0);
        if (column < 0 || column >= columns) continue;
        share[bar.lane * columns + column] += part;
        if (bar.tone === "failed") bad[bar.lane * columns + column] += part;
      } else if (bar.tone === "done") {
        bare(bar, x0, x1, y, paint, high);
      } else {
        marks.push([bar, x0, x1, y]);
      }
    }
    for (const [sums, tone] of [[share, "done"], [bad, "failed"]]) {
      pen.fillStyle = paint[tone];
      for (let lane = 0; lane < workers.length; lane++) {
        for (let column = 0; column < columns; column++) {
          const part = sums[lane * columns + column];
          if (!part) continue;
          // Of what failed the height is its part; at least so much that it can be seen.
          const tall = tone === "done" ? high - 2 : Math.max(2, (high - 2) * Math.min(1, part / share[lane * columns + column]));
          pen.globalAlpha = tone === "done" ? 0.25 + 0.75 * Math.min(1, part) : 1;
          pen.fillRect(LEFT + column, AXIS + lane * high + high - 1 - tall, 1, tall);
        }
      }
    }
    pen.globalAlpha = 1;
    for (const [bar, x0, x1, y] of marks) bare(bar, x0, Math.max(x1, x0 + 2), y, paint, high);
    for (const gapped of breaks) {
      const x0 = toX(gapped.at), x1 = toX(gapped.at + narrow);
      pen.strokeStyle = paint.line;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo((x0 + x1) / 2, AXIS);
      pen.lineTo((x0 + x1) / 2, height);
      pen.stroke();
      pen.setLineDash([]);
    }
    if (selecting) {
      pen.globalAlpha = 0.25;
      pen.fillStyle = paint.running;
      pen.fillRect(Math.min(selecting.x0, selecting.x1), 0, Math.abs(selecting.x1 - selecting.x0), height);
      pen.globalAlpha = 1;
    }
    pen.restore();
    canvas.setAttribute("aria-label", "Timeline of " + bars.length + " attempts on " + workers.length + " workers, " +
      timeText(meant(view.from), true) + " to " + timeText(meant(view.to), true) + " UTC. Arrow keys move, plus and minus zoom, 0 shows all. The table below has the same jobs.");
  };
  const bare = (bar, x0, x1, y, paint, high) => {
    pen.fillStyle = paint[bar.tone];
    pen.fillRect(x0, y + 1, Math.max(1, x1 - x0 - 0.5), high - 2);
    if (x1 - x0 < 46 || high < 14) return;
    pen.save();
    pen.beginPath();
    pen.rect(x0 + 3, y, x1 - x0 - 6, high);
    pen.clip();
    pen.fillStyle = paint.onBar;
    pen.fillText(jobs[bar.job][NAME].slice(0, 200), Math.max(x0, LEFT) + 4, y + high / 2);
    pen.restore();
  };
  const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
  const ticks = (paint, height) => {
    const across = view.to - view.from, goal = across / Math.max(2, wide() / 110);
    const step = STEPS.find((each) => each >= goal) || goal;
    pen.textAlign = "center";
    pen.lineWidth = 1;
    for (const piece of pieces) {
      const low = Math.max(piece.start, view.from), top = Math.min(piece.end, view.to);
      if (low > top) continue;
      // Ticks are at round distances from the beginning of the batch; a piece has one at its start.
      const first = Math.ceil(meant(low) / step) * step, points = [];
      if (piece.start >= view.from) points.push(piece.from);
      for (let s = first, count = 0; s <= meant(top) && count < 100; s += step, count++) points.push(s);
      let end = -Infinity;
      for (const s of points) {
        const x = toX(piece.start + s - piece.from);
        if (x - end < 60 || x < LEFT - 1) continue;
        end = x;
        pen.strokeStyle = paint.line;
        pen.beginPath();
        pen.moveTo(x, AXIS - 4);
        pen.lineTo(x, height);
        pen.stroke();
        pen.fillStyle = paint.dim;
        const text = piece !== pieces[0] ? timeText(s) : s > 0 ? "+" + secondsText(s) : "0";
        pen.fillText(text, Math.min(x + 2, LEFT + wide() + 6 - pen.measureText(text).width / 2), 10);
      }
    }
  };
  const look = (from, to) => {
    const span = Math.max(whole / 1e6, Math.min(whole, to - from)), low = Math.max(0, Math.min(whole - span, from));
    view = { from: low, to: low + span };
    draw();
  };
  const zoom = {
    in: () => look(view.from + (view.to - view.from) / 4, view.to - (view.to - view.from) / 4),
    out: () => look(view.from - (view.to - view.from) / 2, view.to + (view.to - view.from) / 2),
    left: () => look(view.from - (view.to - view.from) / 4, view.to - (view.to - view.from) / 4),
    right: () => look(view.from + (view.to - view.from) / 4, view.to + (view.to - view.from) / 4),
    all: () => look(0, whole),
  };
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom[button.dataset.zoom]());
  canvas.addEventListener("keydown", (event) => {
    const act = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", "0": "all", Home: "all" }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    zoom[act]();
    event.preventDefault();
  });
  const barAt = (x, y) => {
    const lane = Math.floor((y - AXIS) / laneHeight());
    let best = null, nearest = 3;
    for (const bar of bars) {
      if (bar.lane !== lane || bar.x1 < view.from || bar.x0 > view.to) continue;
      const x0 = toX(bar.x0), x1 = toX(bar.x1), far = x < x0 ? x0 - x : x > x1 ? x - x1 : 0;
      if (far < nearest || (far === nearest && bar.tone !== "done")) { best = bar; nearest = far; }
    }
    return best;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || event.offsetX < LEFT) return;
    selecting = { x0: event.offsetX, x1: event.offsetX };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (selecting) { selecting.x1 = Math.max(LEFT, Math.min(LEFT + wide(), event.offsetX)); tip.hidden = true; draw(); return; }
    const bar = barAt(event.offsetX, event.offsetY);
    tip.hidden = !bar;
    if (!bar) return;
    const job = jobs[bar.job];
    tip.textContent = job[NAME].slice(0, 200) + " \u2014 " + (bar.each ? bar.each[TRY.status] + ", " + secondsText(bar.each[TRY.seconds]) + ", " + sizeText(bar.each[TRY.size]) : statusOf(job));
    tip.style.left = Math.max(0, Math.min(event.offsetX + 12, wide() + LEFT - tip.offsetWidth)) + "px";
    tip.style.top = event.offsetY + 16 + "px";
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointercancel", () => { selecting = null; draw(); });
  canvas.addEventListener("pointerup", (event) => {
    const range = selecting;
    selecting = null;
    if (!range) return;
    if (Math.abs(range.x1 - range.x0) > 4) {
      const value = (x) => view.from + (x - LEFT) / wide() * (view.to - view.from);
      look(value(Math.min(range.x0, range.x1)), value(Math.max(range.x0, range.x1)));
      return;
    }
    const bar = barAt(event.offsetX, event.offsetY);
    if (bar) openJob(bar.job); else draw();
  });
  canvas.addEventListener("dblclick", zoom.all);

  // -- what the address says, size, colours, paper -----------------------------------------------

  const remember = () => {
    const said = new URLSearchParams();
    if (words) said.set("filter", words);
    if (sorted) said.set("sort", (sorted.down ? "-" : "") + sorted.id);
    try { history.replaceState(null, "", "#" + said); } catch { /* a frame may not */ }
  };
  const obey = () => {
    const hash = location.hash.slice(1), failure = /^[0-9a-f]{32}$/.test(hash) && $(hash);
    if (failure) {
      failure.closest("details.more")?.setAttribute("open", "");
      failure.open = true;
      failure.scrollIntoView();
      return;
    }
    const said = new URLSearchParams(hash), sort = said.get("sort") || "", id = sort.replace(/^-/, "");
    words = filter.value = said.get("filter") || "";
    setSort(COLUMNS.some((column) => column.id === id) ? { id, down: sort[0] === "-" } : null);
  };
  addEventListener("hashchange", () => { obey(); if (location.hash.includes("filter=")) $("h-jobs").scrollIntoView(); });
  addEventListener("resize", later(() => { draw(); show(); }));
  isDark.addEventListener("change", draw);
  const print = (now) => {
    printing = now;
    const note = $("print-note");
    note.hidden = !now || order.length <= 500;
    note.textContent = "The first 500 of " + order.length.toLocaleString("en") + " jobs, as they were sorted and filtered.";
    draw();
    show();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  obey();
  draw();
})();
