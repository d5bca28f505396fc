// Drawing on a frame: boxes, labels and bars, in the colours and words of main.py.
import { EMOTIONS, UNCERTAIN } from "./detector.js";

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
    for (const face of bars ? faces : []) {
      this._drawBars(face, faces.filter((other) => other !== face), BAR_TEXT_SIZE / screen); // below all labels
    }
    for (const face of faces) this._drawFace(face, LABEL_SIZE / screen);
    this._drawText(status, 0, 0, BAR_TEXT_SIZE / screen, "white", "black");
  }

  _drawFace({ box: [x, y, width, height], label, probabilities }, size) {
    const thickness = Math.max(size / 7, 1);
    for (const [color, line] of [["black", 2 * thickness], [COLORS[label], thickness]]) {
      Object.assign(this.context, { strokeStyle: color, lineWidth: line });
      this.context.strokeRect(x, y, width, height);
    }
    const percent = Math.round(100 * (probabilities[EMOTIONS.indexOf(label)] ?? 0));
    const text = label === UNCERTAIN ? label : `${label} ${percent}%`;
    const ink = WHITE_INK.has(label) ? "white" : "black";
    this._drawText(text, x - thickness, y - 1.4 * size, size, ink, COLORS[label]);
  }

  /** Draws the seven probabilities beside the box, away from the nearest other face if there is room. */
  _drawBars({ box: [x, y, width], probabilities }, others, size) {
    const { context, frame } = this;
    context.font = `${size}px ${FONT}`;
    const [lineHeight, barWidth] = [1.4 * size, 5 * size];
    const nameWidth = Math.max(...EMOTIONS.map((name) => context.measureText(name).width)) + size;
    const [panelWidth, panelHeight] = [nameWidth + barWidth, EMOTIONS.length * lineHeight];
    const top = Math.min(Math.max(y, 0), Math.max(frame.height - panelHeight, 0));
    const nearest = others.map(({ box }) => box[0] - x).sort((a, b) => Math.abs(a) - Math.abs(b))[0] ?? 0;
    const [onLeft, onRight, last] = [x - panelWidth - 4, x + width + 4, Math.max(frame.width - panelWidth, 0)];
    const toTheLeft = nearest > 0 || (nearest === 0 && onLeft >= 0 && onRight > last);
    const left = Math.min(Math.max(toTheLeft ? onLeft : onRight, 0), last);
    context.fillStyle = "rgb(0 0 0 / 75%)";
    context.fillRect(left, top, panelWidth, panelHeight);
    EMOTIONS.forEach((name, i) => {
      const line = top + i * lineHeight;
      this._drawText(name, left, line, size, "white");
      context.fillStyle = COLORS[name];
      context.fillRect(left + nameWidth, line + lineHeight / 4, (barWidth - 4) * probabilities[i], lineHeight / 2);
    });
  }

  /** Writes a line with its upper left corner there, moved so that it stays inside the frame. */
  _drawText(text, x, y, size, ink, paper) {
    if (!text) return;
    const { context, frame } = this;
    Object.assign(context, { font: `${size}px ${FONT}`, textBaseline: "middle" });
    const [width, height] = [context.measureText(text).width + 0.8 * size, 1.4 * size];
    const left = Math.max(Math.min(x, frame.width - width), 0);
    const top = Math.max(Math.min(y, frame.height - height), 0);
    if (paper) {
      context.fillStyle = paper;
      context.fillRect(left, top, width, height);
    }
    context.fillStyle = ink;
    context.fillText(text, left + 0.4 * size, top + height / 2);
  }
}
