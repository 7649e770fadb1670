"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const told = JSON.parse(byId("viewer-data").textContent);
  const [nx, ny, nz] = told.shape;
  const NONE = -128;
  const STEPS = 256;
  // Across x, y and z; which axis runs to the right and which upwards.
  const ACROSS = [[1, 2], [0, 2], [0, 1]];
  const place = told.start.slice();
  let current = 0;
  let values = null;
  let grey = null;
  let level = 0;

  const inflate = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const held = new Map();
  const volume = async (i) => {
    if (!held.has(i)) held.set(i, new Int8Array((await inflate(`volume-${i}`)).buffer));
    return held.get(i);
  };

  const table = (colours) => {
    const known = colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
    return Array.from({ length: STEPS }, (_, i) => {
      const at = (i / (STEPS - 1)) * (known.length - 1);
      const low = Math.min(Math.floor(at), known.length - 2);
      return known[low].map((v, c) => Math.round(v + (at - low) * (known[low + 1][c] - v)));
    });
  };
  const tables = Object.fromEntries(Object.entries(told.colours).map(([k, v]) => [k, table(v)]));
  const minus = (text) => text.replace("-", "\u2212");

  const valueOf = (map, unit) => map.low + unit * map.step;
  const colourOf = (map, unit) => {
    if (unit === NONE) return null;
    if (map.kind === "level") return tables.levels[Math.round((unit / 127) * (STEPS - 1))];
    const height = Math.abs(unit);
    if (height < level || unit === 0) return null;
    const start = level * map.step;
    const share = (height * map.step - start) / Math.max(map.high - start, 1e-9);
    const index = Math.round(Math.min(1, Math.max(0, share)) * (STEPS - 1));
    return (unit < 0 ? tables.below : tables.above)[index];
  };

  const indexOf = (x, y, z) => x + nx * (y + ny * z);
  const canvases = [0, 1, 2].map((axis) => byId(`plane-${axis}`));
  const sliders = [0, 1, 2].map((axis) => byId(`slice-${axis}`));
  const frame = [{}, {}, {}]; // of the slice in its canvas, which are all of one height
  const size = (axis) => ACROSS[axis].map((a) => told.shape[a]);

  const draw = (axis) => {
    const [right, up] = ACROSS[axis];
    const [w, h] = size(axis);
    const below = new ImageData(w, h);
    const above = new ImageData(w, h);
    const map = told.volumes[current];
    const at = place.slice();
    for (let j = 0; j < h; j++) {
      for (let i = 0; i < w; i++) {
        at[right] = i;
        at[up] = h - 1 - j;
        const voxel = indexOf(at[0], at[1], at[2]);
        const to = 4 * (j * w + i);
        const share = grey[voxel] / 255;
        below.data[to] = 13 + share * 242;
        below.data[to + 1] = 17 + share * 238;
        below.data[to + 2] = 23 + share * 232;
        below.data[to + 3] = 255;
        const colour = colourOf(map, values[voxel]);
        if (colour) {
          above.data.set(colour, to);
          above.data[to + 3] = 255;
        }
      }
    }
    const canvas = canvases[axis];
    const context = canvas.getContext("2d");
    const { top, height } = frame[axis];
    context.fillStyle = "#0d1117";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const paint = (image, smooth) => {
      const small = new OffscreenCanvas(w, h);
      small.getContext("2d").putImageData(image, 0, 0);
      context.imageSmoothingEnabled = smooth;
      context.imageSmoothingQuality = "high";
      context.drawImage(small, 0, top, canvas.width, height);
    };
    paint(below, told.smooth);
    paint(above, false);
    const x = ((place[right] + 0.5) / w) * canvas.width;
    const y = top + ((h - place[up] - 0.5) / h) * height;
    context.strokeStyle = "rgba(255, 255, 255, .45)";
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, 0); context.lineTo(x, canvas.height);
    context.moveTo(0, y); context.lineTo(canvas.width, y);
    context.stroke();
    if (axis > 0) {
      context.fillStyle = "#aeb8c4";
      context.font = "20px system-ui, sans-serif";
      context.fillText("L", 8, 24);
      context.fillText("R", canvas.width - 22, 24);
    }
  };

  const say = () => {
    const map = told.volumes[current];
    const unit = values[indexOf(...place)];
    const mm = told.affine.slice(0, 3).map((r) => r[0] * place[0] + r[1] * place[1] + r[2] * place[2] + r[3]);
    const digits = map.high < 3 ? 2 : map.kind === "stat" ? 2 : 0;
    byId("value").textContent = unit === NONE
      ? "no estimate" : minus(`${map.unit ? map.unit + " " : ""}${valueOf(map, unit).toFixed(digits)}`);
    byId("place").textContent = minus(`x ${mm[0].toFixed(1)}`) + minus(`, y ${mm[1].toFixed(1)}`) + minus(`, z ${mm[2].toFixed(1)} mm`);
    [0, 1, 2].forEach((axis) => {
      byId(`at-${axis}`).textContent = minus(`${mm[axis].toFixed(0)} mm`);
      sliders[axis].value = place[axis];
      sliders[axis].setAttribute("aria-valuetext", `${mm[axis].toFixed(0)} mm`);
    });
  };

  const legend = () => {
    const map = told.volumes[current];
    const stat = map.kind === "stat";
    byId("threshold").disabled = !stat;
    const height = level * map.step;
    byId("threshold-value").textContent = stat ? `${height.toFixed(2)}` : "\u2013";
    byId("scale-low").textContent = minus(stat ? `\u00b1${height.toFixed(2)}` : map.low.toFixed(map.high < 3 ? 2 : 0));
    byId("scale-high").textContent = stat ? `\u00b1${map.high.toFixed(1)}` : map.high.toFixed(map.high < 3 ? 2 : 0);
    const ramp = byId("ramp");
    const context = ramp.getContext("2d");
    const image = new ImageData(ramp.width, ramp.height);
    for (let j = 0; j < ramp.height; j++) {
      for (let i = 0; i < ramp.width; i++) {
        const index = Math.round((i / (ramp.width - 1)) * (STEPS - 1));
        const which = stat ? (j < ramp.height / 2 ? tables.above : tables.below) : tables.levels;
        image.data.set([...which[index], 255], 4 * (j * ramp.width + i));
      }
    }
    context.putImageData(image, 0, 0);
  };

  const show = () => { [0, 1, 2].forEach(draw); say(); };
  const choose = async (i) => {
    const before = values && told.volumes[current];
    const map = told.volumes[i];
    values = await volume(i);
    current = i;
    const slider = byId("threshold");
    if (map.kind === "stat") {
      slider.max = Math.max(1, Math.round(map.high / map.step));
      const kept = before && before.kind === "stat" && before.step === map.step;
      level = kept ? level : Math.round(map.threshold / map.step);
      slider.value = level;
    }
    legend();
    show();
  };

  const layOut = () => {
    const mm = (axis) => ACROSS[axis].map((a) => told.shape[a] * told.sizes[a]);
    // Columns as wide as the slices are: one scale in mm for the three.
    document.querySelector(".planes").style.gridTemplateColumns = [0, 1, 2].map((axis) => `${mm(axis)[0].toFixed(0)}fr`).join(" ");
    const perMm = 640 / Math.max(...[0, 1, 2].map((axis) => mm(axis)[0]));
    const tallest = Math.max(...[0, 1, 2].map((axis) => mm(axis)[1])) * perMm;
    [0, 1, 2].forEach((axis) => {
      canvases[axis].width = Math.round(mm(axis)[0] * perMm);
      canvases[axis].height = Math.round(tallest);
      frame[axis] = { top: (tallest - mm(axis)[1] * perMm) / 2, height: mm(axis)[1] * perMm };
      sliders[axis].max = told.shape[axis] - 1;
      sliders[axis].addEventListener("input", () => {
        place[axis] = Number(sliders[axis].value);
        show();
      });
      const pick = (event) => {
        const [right, up] = ACROSS[axis];
        const [w, h] = size(axis);
        const box = canvases[axis].getBoundingClientRect();
        const clip = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v)));
        place[right] = clip(((event.clientX - box.left) / box.width) * w, w);
        const y = ((event.clientY - box.top) / box.height) * canvases[axis].height;
        place[up] = clip((1 - (y - frame[axis].top) / frame[axis].height) * h, h);
        show();
      };
      canvases[axis].addEventListener("pointerdown", (event) => {
        canvases[axis].setPointerCapture(event.pointerId);
        pick(event);
      });
      canvases[axis].addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
    });
  };

  const begin = async () => {
    layOut();
    grey = await inflate("grey");
    byId("map").addEventListener("change", (event) => choose(Number(event.target.value)));
    byId("threshold").addEventListener("input", (event) => {
      level = Number(event.target.value);
      legend();
      show();
    });
    document.querySelectorAll("button.jump").forEach((button) => button.addEventListener("click", async () => {
      JSON.parse(button.dataset.at).forEach((v, axis) => { place[axis] = v; });
      const i = told.volumes.findIndex((one) => one.group === button.dataset.group && one.kind === "stat");
      if (i >= 0 && told.volumes[current].group !== button.dataset.group) {
        byId("map").value = String(i);
        await choose(i);
      }
      show();
      byId("look").scrollIntoView();
    }));
    await choose(0);
    byId("viewer").dataset.ready = "yes";
  };
  begin();
})();
