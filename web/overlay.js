// Drawing on a frame: boxes, labels and bars, in the colours and words of main.py.
import { EMOTIONS, UNCERTAIN } from "./detector.js";
import { centre, clamp, intersection, rotated } from "./faces.js";

// Okabe and Ito's palette, which colour-blind people can tell apart.
const COLORS = {
  angry: "#d55e00",
  disgust: "#009e73",
  fear: "#cc79a7",
  happy: "#f0e442",
  sad: "#0072b2",
  surprise: "#e69f00",
  neutral: "#56b4e9",
  [UNCERTAIN]: "#aaaaaa",
};
const WHITE_INK = new Set(["sad"]); // on all other colours, black is easier to read
const LABEL_SIZE = 17; // CSS pixels on the screen
const BAR_TEXT_SIZE = 13;
const PANEL_SIZES = [1, 0.8, 0.65, 0.5]; // of bars: tried in turn until there is room
const LINE_HEIGHT = 1.4; // of the text size
const FONT = "system-ui, sans-serif";

/** Shows a frame with its faces on a canvas that fills an element. Coordinates are pixels of the frame. */
export class Overlay {
  /** `frame` is the canvas of the bare frame, `stage` the element in which the canvas is shown as large as it fits. */
  constructor(canvas, frame, stage) {
    Object.assign(this, { canvas, frame, stage, context: canvas.getContext("2d") });
  }

  /** Draws the frame, a line of status in its corner, and its faces, with bars if wanted. */
  draw({ faces, status }, bars) {
    const { canvas, context, frame, stage } = this;
    const screen = Math.min(stage.clientWidth / frame.width, stage.clientHeight / frame.height); // CSS px per pixel
    const sharpness = Math.round(Math.min(Math.max(screen * devicePixelRatio, 1), 2)); // readable text on small frames
    const [width, height] = [frame.width * sharpness, frame.height * sharpness];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    context.drawImage(frame, 0, 0);
    context.lineJoin = "round";
    const labels = this._drawFaces(faces, bars, screen);
    this._drawStatus(status, labels, BAR_TEXT_SIZE / screen);
  }

  /** Writes a line in the upper left corner, or in the right one if a label is there. */
  _drawStatus(text, labels, size) {
    const [width, height] = [this._textWidth(text, size), LINE_HEIGHT * size];
    const lefts = [0, Math.max(this.frame.width - width, 0)];
    const covered = lefts.map((x) => labels.reduce((sum, { area }) => sum + intersection([x, 0, width, height], area), 0));
    this._drawText(text, lefts[Number(covered[1] < covered[0])], 0, size, "white", "black");
  }

  /** Returns the labels. Bars never cover a face, a label or other bars; where there is no room, they are left out. */
  _drawFaces(faces, bars, screen) {
    const size = LABEL_SIZE / screen;
    const labels = faces.map((face) => this._label(face, size, faces.length > 1));
    const taken = [...labels.map(({ area }) => area), ...faces.map((face) => areaOf(face, size))];
    for (const face of bars ? faces : []) {
      const panel = this._placePanel(face, taken, screen);
      if (!panel) continue;
      this._drawBars(face.probabilities, panel);
      taken.push(panel.area);
    }
    for (const [i, face] of faces.entries()) {
      this._drawBox(face, size);
      const [x, y] = labels[i].area;
      this._drawText(labels[i].text, x, y, size, WHITE_INK.has(face.label) ? "white" : "black", COLORS[face.label]);
    }
    return labels;
  }

  /** Returns what is written above a face's box, or at its top if the frame ends there: {text, area}. */
  _label({ id, label, probabilities, ...face }, size, numbered) {
    const percent = label === UNCERTAIN ? "" : ` ${percentage(probabilities[EMOTIONS.indexOf(label)])}`;
    const text = `${numbered ? `${id}: ` : ""}${label}${percent}`;
    const top = Math.min(...cornersOf(face).map(([, y]) => y));
    const [width, height] = [this._textWidth(text, size), LINE_HEIGHT * size];
    return { text, area: this._inside([face.box[0] - lineWidth(size), top - height, width, height]) };
  }

  /** Returns the first free place for bars: right, left, below or above a face, or else smaller; null if none. */
  _placePanel(face, taken, screen) {
    const [left, top, width, height] = areaOf(face, LABEL_SIZE / screen);
    const { frame } = this;
    for (const panelSize of PANEL_SIZES) {
      const size = (panelSize * BAR_TEXT_SIZE) / screen;
      const columns = this._columns(size);
      const [panelWidth, panelHeight] = [columns.reduce((a, b) => a + b), EMOTIONS.length * LINE_HEIGHT * size];
      const [right, lower] = [left + width, top + height];
      const upper = top - (LINE_HEIGHT * LABEL_SIZE) / screen - panelHeight;
      const beside = [top, lower - panelHeight].flatMap((y) => [right, left - panelWidth].map((x) => [x, y]));
      const stacked = [left, right - panelWidth].flatMap((x) => [lower, upper].map((y) => [x, y]));
      for (const corner of [...beside, ...stacked]) {
        const area = this._inside([...corner, panelWidth, panelHeight]);
        const fits = panelWidth <= frame.width && panelHeight <= frame.height;
        if (fits && !taken.some((other) => intersection(area, other) > 0)) return { area, size, columns };
      }
    }
    return null;
  }

  /** Draws a bar and the percentage of each of the seven probabilities. */
  _drawBars(probabilities, { area: [left, top, width, height], size, columns: [nameWidth, barWidth] }) {
    const { context } = this;
    const lineHeight = LINE_HEIGHT * size;
    context.fillStyle = "rgb(0 0 0 / 75%)";
    context.fillRect(left, top, width, height);
    EMOTIONS.forEach((name, i) => {
      const line = top + i * lineHeight;
      this._drawText(name, left, line, size, "white");
      this._drawText(percentage(probabilities[i]), left + nameWidth + barWidth, line, size, "white");
      context.fillStyle = COLORS[name];
      context.fillRect(left + nameWidth, line + lineHeight / 4, barWidth * probabilities[i], lineHeight / 2);
    });
  }

  /** Draws a face's box, rotated by its tilt. */
  _drawBox(face, size) {
    const { context } = this;
    const thickness = lineWidth(size);
    for (const [color, line] of [["black", 2 * thickness], [COLORS[face.label], thickness]]) {
      Object.assign(context, { strokeStyle: color, lineWidth: line });
      context.beginPath();
      for (const corner of cornersOf(face)) context.lineTo(...corner);
      context.closePath();
      context.stroke();
    }
  }

  /** Returns the widths of a panel's columns: names, bars, percentages. */
  _columns(size) {
    const names = EMOTIONS.map((name) => this._textWidth(name, size));
    return [Math.max(...names), 5 * size, this._textWidth("100%", size)];
  }

  _textWidth(text, size) {
    this.context.font = `${size}px ${FONT}`;
    return this.context.measureText(text).width + 0.8 * size;
  }

  /** Returns an area [x, y, width, height] moved into the frame. */
  _inside([x, y, width, height]) {
    const [lastX, lastY] = [this.frame.width - width, this.frame.height - height];
    return [clamp(x, 0, Math.max(lastX, 0)), clamp(y, 0, Math.max(lastY, 0)), width, height];
  }

  /** Writes a line with its upper left corner there, moved so that it stays inside the frame. */
  _drawText(text, x, y, size, ink, paper) {
    if (!text) return;
    const { context } = this;
    const [left, top, width, height] = this._inside([x, y, this._textWidth(text, size), LINE_HEIGHT * size]);
    if (paper) {
      context.fillStyle = paper;
      context.fillRect(left, top, width, height);
    }
    Object.assign(context, { fillStyle: ink, textBaseline: "middle" });
    context.fillText(text, left + 0.4 * size, top + height / 2);
  }
}

const percentage = (probability) => `${Math.round(100 * probability)}%`;
const lineWidth = (size) => Math.max(size / 7, 1);

/** Returns the four corners of a face's box, rotated by its tilt. */
function cornersOf({ box, tiltDegrees }) {
  const [x, y] = centre(box);
  const [right, lower] = [box[2] / 2, box[3] / 2];
  const corners = [[-right, -lower], [right, -lower], [right, lower], [-right, lower]];
  return corners.map((corner) => rotated(corner, tiltDegrees)).map(([shiftX, shiftY]) => [x + shiftX, y + shiftY]);
}

/** Returns the area [x, y, width, height] around all that is drawn of a face's box. */
function areaOf(face, size) {
  const corners = cornersOf(face);
  const [xs, ys] = [0, 1].map((i) => corners.map((corner) => corner[i]));
  const [left, top] = [Math.min(...xs) - lineWidth(size), Math.min(...ys) - lineWidth(size)];
  return [left, top, Math.max(...xs) + lineWidth(size) - left, Math.max(...ys) + lineWidth(size) - top];
}
