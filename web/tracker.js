// The same face from frame to frame: as emotions/face.py and emotions/tracker.py. Times are seconds of the video.
import { centre, centred, clipBox, intersection, isPlausible, isSameFace, keepStrongest, merge } from "./faces.js";
import { IMAGE_SIZE, overlap, rotated, round, SAME_PLACE, strongestFirst, TURNS } from "./faces.js";

const SHOW_SECONDS = 0.2; // for which the box of a face that is not found is still shown
const HIDDEN_SECONDS = 3.0; // for which a face may be hidden behind another
const BOX_SMOOTHING_SECONDS = 0.15; // time constant of the box of a head at rest
const FAST_SHIFT = 0.1; // shift in box widths from which a box follows without smoothing
const VELOCITY_SECONDS = 0.2; // time constant of a face's velocity
const STRONG_EVIDENCE = 125; // windows: what is followed has at least so much evidence beside what is new
const PATCH_SIZE = 24; // pixels: a face's last picture,
const PATCH_MARGIN = 8; // the border around its place in which it is searched,
const MIN_CORRELATION = 0.5; // and how well it must fit
const CARRIED_SHARE = 0.3; // of a new picture while a face is only carried on: it may be drifting
const COURSE_SECONDS = 1.5; // for which the course of a face before it met another counts: it may stop or turn
const APPEARANCE_SIZE = 12; // pixels: the crop that tells two faces apart
const APPEARANCE_WEIGHT = 1.5; // of its difference, beside widths
const SEARCH_SIDE = 640; // pixels: a frame is shrunk to this longer side for a search,
const TURNED_SIDE = 320; // and its turned copies to this
const SEARCH_SECONDS = 1.5; // between searches, and between those of turned copies, while every known face is in view
const MISSING_SEARCH_SECONDS = 0.15; // the same while a face is missing, or none is known,
const START_SECONDS = 0.5; // and for so long at the start of a video
const FOLLOW_SIZE = 30; // pixels: width of a face when it is followed
const FOLLOW_MARGIN = 0.3; // border around it in widths
const FOLLOW_STEPS = [-10, 10]; // degrees: it is searched to both sides of its last tilt
const FOLLOW_FACTOR = 1.2; // scale factor
const MAX_PER_FRAME = 4; // faces that are searched in one frame; if there are more, they take turns,
const TURN_SECONDS = 0.095; // each at least ten times a second
const KEEP_SECONDS = 1.0; // for which a face that is not found keeps its id,
const KEEP_LEFT_SECONDS = 1.5; // and if it has left the frame: it comes back in parts
const WEAK_EVIDENCE = 3; // windows: what is found with less, or at another size than last verified, is in doubt:
const MAX_DRIFT = 1.3; // ratio of widths
const OTHER_SIZE = 1.6; // ratio of widths from which what is found on a face is not that face
const CHECK_SECONDS = 0.2; // after which a face in doubt is verified, again and again,
const CARRY_SECONDS = 1.0; // and for which it is carried on by its picture alone
const KNOWN_SHARE = 0.5; // of the usual evidence that a known face needs in verification
const INSIDE_SHARE = 0.5; // of a box: with less inside the frame, a face has left
const HIDDEN_SHARE = 0.3; // of a box that another face covers: hidden behind it,
const MEETING_SHARE = 0.15; // or beside it

/** One face: all that is known of it, where it is expected, and what it looks like. */
export class Face {
  constructor(search, id, box, tiltDegrees = 0) {
    Object.assign(this, { id, box, probabilities: null, label: "", tiltDegrees, smoother: null, _search: search });
    this.found = null; // as what it was last found,
    this.seenSeconds = 0; // when,
    this.searchedSeconds = 0; // and when it was last searched
    this.supportedSeconds = 0; // when it was last found beyond doubt,
    this.verified = null; // last verified, as what,
    this.checkedSeconds = 0; // and when that was last tried
    this.hiddenSeconds = -Infinity; // when it was last behind another face
    this.alone = { place: null, seconds: 0 }; // as what, and when, it was last found away from others
    this.velocity = [0, 0]; // pixels a second
    this.smoothBox = null; // centre x, centre y, width, height
    this.patch = null; // 24 x 24 pixels: as it was last found beyond doubt
    this.appearance = null; // see appearanceOf
  }

  /** Whether it was found when it was last searched. */
  get inView() {
    return this.seenSeconds === this.searchedSeconds;
  }

  /** The box with what lies outside the frame, if it is known. */
  get wholeBox() {
    if (!this.smoothBox) return this.box;
    const [x, y, width, height] = this.smoothBox;
    return [x - width / 2, y - height / 2, width, height];
  }

  /** Begins to follow it where it was found and verified. */
  start(gray, place, now) {
    this.smoothBox = centred(place.box);
    this.found = this.verified = place;
    this.checkedSeconds = this.supportedSeconds = this.seenSeconds = now;
    this.tiltDegrees = place.tiltDegrees;
    this.move(gray, place, now);
  }

  /** Returns where it is expected, by constant velocity. */
  predict(now) {
    const { box: [x, y, width, height], tiltDegrees } = this.found;
    const [shiftX, shiftY] = this.velocity.map((value) => value * (now - this.seenSeconds));
    const evidence = Math.max(this.verified.evidence, STRONG_EVIDENCE);
    return { box: [x + shiftX, y + shiftY, width, height], tiltDegrees, evidence, strength: this.verified.strength };
  }

  /** Returns whether the width of a place is that of its last verification, by less than this ratio. */
  hasSizeOf(place, ratio) {
    const widths = place.box[2] / this.verified.box[2];
    return 1 / ratio < widths && widths < ratio;
  }

  /** Returns how far a place is from where it is expected, in widths, and from its size; null if too far. */
  distance(place, now) {
    const missingSeconds = now - this.seenSeconds;
    const expected = [this.predict(now), ...(missingSeconds > SHOW_SECONDS ? [this.found] : [])];
    const distances = expected.map(({ box }) => apart(centre(place.box), centre(box)));
    const distance = Math.min(...distances) / this.found.box[2];
    const size = Math.abs(Math.log(place.box[2] / this.found.box[2]));
    return distance > Math.min(0.6 + 1.5 * missingSeconds, 2) || size > 0.5 ? null : distance + size;
  }

  /**
   * Returns the cost of a place that may be another face. It rises with the distance from its course since it met the
   * other, on which it may have stopped anywhere, and with its change in size and appearance.
   */
  identityCost(place, appearance, now) {
    const { place: { box }, seconds } = this.alone;
    const elapsed = now - seconds;
    const start = centre(box);
    const way = this.velocity.map((speed) => speed * Math.min(elapsed, HIDDEN_SECONDS));
    const moved = centre(place.box).map((value, i) => value - start[i]);
    const along = (moved[0] * way[0] + moved[1] * way[1]) / Math.max(way[0] ** 2 + way[1] ** 2, 1e-9);
    const gone = Math.min(Math.max(along, 0), 1);
    const offCourse = Math.min(apart(moved, way.map((value) => gone * value)) / box[2], 1);
    const likeness = appearance.reduce((sum, value, i) => sum + value * (this.appearance?.[i] ?? 0), 0);
    const size = Math.abs(Math.log(place.box[2] / box[2]));
    const course = Math.max(1 - elapsed / COURSE_SECONDS, 0) * offCourse;
    return course + size + (this.appearance ? APPEARANCE_WEIGHT * (1 - likeness) : 0);
  }

  /** Returns where its last picture fits best near its expected place, null if nowhere. */
  carry(gray, now) {
    const expected = this.predict(now);
    const { box, tiltDegrees } = expected;
    const side = PATCH_SIZE + 2 * PATCH_MARGIN;
    const view = this._search.cutUpright(gray, box, tiltDegrees, PATCH_SIZE, side);
    const { correlation, x, y } = this._search.match(view, side, this.patch, PATCH_SIZE);
    if (correlation < MIN_CORRELATION) return null;
    const shift = rotated([x - PATCH_MARGIN, y - PATCH_MARGIN], tiltDegrees);
    const [shiftX, shiftY] = shift.map((value) => (value * box[2]) / PATCH_SIZE);
    return { ...expected, box: [box[0] + shiftX, box[1] + shiftY, box[2], box[3]] };
  }

  /** Takes the place where it was found. The box of a head at rest is smoothed, a moving one followed at once. */
  move(gray, place, now, alone = true) {
    const elapsed = Math.max(now - this.seenSeconds, 1e-3);
    const middle = centre(place.box);
    if (alone) {
      this.alone = { place, seconds: now };
      const old = centre(this.found.box);
      const share = weightOf(elapsed, VELOCITY_SECONDS);
      this.velocity = this.velocity.map((value, i) => value + share * ((middle[i] - old[i]) / elapsed - value));
    }
    const found = centred(place.box);
    const shift = Math.max(...[0, 1].map((i) => Math.abs(found[i] - this.smoothBox[i]))) / found[2];
    const weight = weightOf(elapsed, BOX_SMOOTHING_SECONDS);
    const fast = Math.max(weight, Math.min(shift / FAST_SHIFT, 1));
    const weights = [fast, fast, weight, weight]; // sizes come in coarse steps
    this.smoothBox = this.smoothBox.map((old, i) => old + weights[i] * (found[i] - old));
    this.tiltDegrees += weight * (place.tiltDegrees - this.tiltDegrees);
    Object.assign(this, { found: place, searchedSeconds: now, seenSeconds: now });
    const patch = this._search.cutUpright(gray, place.box, place.tiltDegrees, PATCH_SIZE, PATCH_SIZE);
    const share = this.patch && this.supportedSeconds < now ? CARRIED_SHARE : 1;
    this.patch = share === 1 ? patch : patch.map((level, i) => round(share * level + (1 - share) * this.patch[i]));
    this.box = clipBox(this.wholeBox, gray);
  }

  /** Learns its appearance from a crop, while no other face is where it is. */
  remember(crop) {
    if (this.appearance && this.alone.seconds !== this.seenSeconds) return;
    const appearance = appearanceOf(this._search, crop);
    this.appearance = this.appearance?.map((old, i) => 0.9 * old + 0.1 * appearance[i]) ?? appearance;
  }
}

/** Returns (144,): a small crop less its mean, of length 1; the product of two is their correlation. */
function appearanceOf(search, crop) {
  const small = Array.from(search.shrunk(crop, IMAGE_SIZE, APPEARANCE_SIZE));
  const mean = small.reduce((sum, level) => sum + level, 0) / small.length;
  const length = Math.max(Math.hypot(...small.map((level) => level - mean)), 1e-6);
  return small.map((level) => (level - mean) / length);
}

/** Returns the share of a new value in a low-pass filter. */
const weightOf = (elapsedSeconds, timeConstant) => 1 - Math.exp(-elapsedSeconds / timeConstant);

const apart = ([a, b], [c, d]) => Math.hypot(a - c, b - d);

/**
 * Follows faces through the frames of a video.
 *
 * Each face is searched near the place where it is expected, which costs a tenth of a full search of the frame. What is
 * found is assigned to the faces by place, size and appearance; a face that gets nothing is missing, perhaps hidden
 * behind another. The whole frame is searched in turn, upright and turned.
 */
export class Tracker {
  constructor(search) {
    Object.assign(this, { _search: search, _nextId: 1, _cols: 0, _rows: 0, _now: -Infinity, _gap: Infinity });
    this._forget();
  }

  /** Returns the faces to show in the next frame, by id. */
  update(gray, timeSeconds) {
    const { cols, rows } = gray;
    const gap = timeSeconds - this._now;
    const pause = gap > Math.max(HIDDEN_SECONDS, 3 * this._gap); // meanwhile, others may have taken the places
    if (cols !== this._cols || rows !== this._rows || gap < 0 || pause) this._forget();
    this._startSeconds = Math.min(this._startSeconds, timeSeconds);
    const slow = gap >= MISSING_SEARCH_SECONDS;
    Object.assign(this, { _cols: cols, _rows: rows, _gap: gap, _now: timeSeconds });
    this._follow(gray);
    const often = timeSeconds - this._startSeconds < START_SECONDS || this.faces.some((face) => !face.inView);
    const interval = often || !this.faces.length ? MISSING_SEARCH_SECONDS : SEARCH_SECONDS;
    const upright = timeSeconds - this._searchedSeconds >= interval;
    if (upright) {
      this._searchFrame(gray, 0);
      this._searchedSeconds = timeSeconds;
    }
    if (timeSeconds - this._turnedSeconds >= interval && (!upright || slow)) { // not both in one frame
      this._searchFrame(gray, this._turn);
      Object.assign(this, { _turnedSeconds: timeSeconds, _turn: -this._turn });
    }
    this.faces = this.faces.filter((face) => !this._isGone(face));
    return this.faces.filter((face) => timeSeconds - face.seenSeconds <= SHOW_SECONDS);
  }

  _forget() {
    Object.assign(this, { faces: [], _turn: TURNS[1], _startSeconds: Infinity });
    this._searchedSeconds = this._turnedSeconds = -Infinity;
  }

  /** Searches the faces whose turn it is near their places, and assigns what is found. */
  _follow(gray) {
    const now = this._now;
    const oldest = [...this.faces].sort((a, b) => a.searchedSeconds - b.searchedSeconds);
    const due = oldest.filter((face, i) => i < MAX_PER_FRAME || now - face.searchedSeconds >= TURN_SECONDS);
    const places = this._assign(gray, this.faces, this._searchNear(gray, due));
    for (const face of this.faces) {
      if (!due.includes(face) && !places.has(face)) continue;
      const place = this._examine(gray, face, places.get(face));
      face.searchedSeconds = now;
      if (place && this._isInside(place.box)) face.move(gray, place, now, this._isAlone(face, place.box));
    }
  }

  /** Searches around the faces' expected places in one call of the cascade; returns every face seen there once. */
  _searchNear(gray, faces) {
    if (!faces.length) return [];
    const views = faces.flatMap((face) => {
      const { box, tiltDegrees } = face.predict(this._now);
      return FOLLOW_STEPS.map((step) => ({ box, tiltDegrees: tiltDegrees + step, mirrored: false }));
    });
    const seen = this._search.views(gray, views, FOLLOW_SIZE, FOLLOW_MARGIN, FOLLOW_FACTOR);
    const found = [];
    for (let i = 0; i < views.length; i += FOLLOW_STEPS.length) {
      let near = strongestFirst(seen.slice(i, i + FOLLOW_STEPS.length).flat());
      while (near.length) {
        const [best] = near;
        const isSame = ({ box }) => overlap(box, best.box) >= SAME_PLACE;
        found.push(merge(near.filter(isSame)));
        near = near.filter((each) => !isSame(each));
      }
    }
    return keepStrongest(found);
  }

  /** Returns a Map from face to what was found of it, the closest first; each occurs once. */
  _assign(gray, faces, found) {
    const costs = [];
    for (const place of found) {
      let near = faces.map((face) => ({ distance: face.distance(place, this._now), face, place }));
      near = near.filter(({ distance }) => distance !== null);
      if (near.length > 1) { // several faces may be this one
        const appearance = appearanceOf(this._search, this._search.crop(gray, place.box, place.tiltDegrees));
        for (const each of near) each.distance += each.face.identityCost(place, appearance, this._now);
      }
      costs.push(...near);
    }
    const pairs = new Map();
    for (const { face, place } of costs.sort((a, b) => a.distance - b.distance || a.face.id - b.face.id)) {
      if (!pairs.has(face) && ![...pairs.values()].includes(place)) pairs.set(face, place);
    }
    return pairs;
  }

  /**
   * Returns where a face is, from what was found near its place, if anything; null if it is not in view. What is found
   * clearly and at the expected size is believed. If in doubt, the face is carried on by its picture and verified as
   * soon as the doubt lasts.
   */
  _examine(gray, face, place) {
    const now = this._now;
    const lost = now - face.seenSeconds > SHOW_SECONDS;
    const clear = place !== undefined && place.evidence >= WEAK_EVIDENCE;
    if (clear && face.hasSizeOf(place, MAX_DRIFT) && !lost) {
      face.supportedSeconds = now;
      return place;
    }
    const hidden = this._isHidden(face, face.predict(now).box);
    const carried = lost || hidden ? null : face.carry(gray, now);
    const inDoubt = clear || (!lost && now - face.supportedSeconds >= CHECK_SECONDS);
    if (inDoubt && now - face.checkedSeconds >= CHECK_SECONDS / 2) {
      face.checkedSeconds = now;
      for (const guess of [clear ? place : null, carried]) {
        const verified = guess && this._search.verify(gray, guess, KNOWN_SHARE);
        if (verified) {
          Object.assign(face, { verified, supportedSeconds: now });
          return verified;
        }
      }
    }
    return now - face.supportedSeconds <= CARRY_SECONDS ? carried : null;
  }

  _isInside(box) {
    return intersection(box, [0, 0, this._cols, this._rows]) >= INSIDE_SHARE * box[2] * box[3];
  }

  /** Returns whether no other face is where a face is, not even a hidden one. */
  _isAlone(face, box) {
    const others = this.faces.filter((other) => other !== face).map((other) => other.predict(this._now).box);
    return !others.some((other) => intersection(box, other) > MEETING_SHARE * box[2] * box[3]);
  }

  /** Returns whether another face in view covers a good part of where a face is. */
  _isHidden(face, box) {
    const others = this.faces.filter((other) => other !== face && other.inView).map((other) => other.box);
    return others.some((other) => intersection(box, other) > HIDDEN_SHARE * box[2] * box[3]);
  }

  _isGone(face) {
    const now = this._now;
    const { box } = face.predict(now);
    if (!face.inView && this._isHidden(face, box)) face.hiddenSeconds = now;
    const keepSeconds = this._isInside(box) ? KEEP_SECONDS : KEEP_LEFT_SECONDS;
    const missingSeconds = now - Math.max(face.seenSeconds, face.hiddenSeconds);
    return missingSeconds > keepSeconds || now - face.seenSeconds > HIDDEN_SECONDS;
  }

  /** Searches the whole frame, turned so far, for missing faces and for new ones. */
  _searchFrame(gray, turn) {
    const now = this._now;
    let found = [];
    const inView = this.faces.filter((face) => face.inView);
    const known = inView.map((face) => face.found);
    const missing = this.faces.filter((face) => !face.inView);
    for (const candidate of this._search.frame(gray, turn ? TURNED_SIDE : SEARCH_SIDE, 1.2, 2, turn)) {
      const same = inView.find((face) => isSameFace(candidate.box, face.found.box));
      const fits = same?.hasSizeOf(candidate, OTHER_SIZE);
      if (fits || found.some(({ box }) => overlap(candidate.box, box) >= SAME_PLACE)) continue;
      const place = this._search.verify(gray, candidate);
      if (same && place && place.strength > same.verified.strength) { // it was only a part of a face
        same.start(gray, place, now);
      } else if (place && !known.some(({ box }) => isSameFace(place.box, box))) {
        found = keepStrongest([...found, place]);
      }
    }
    const others = [...found, ...inView.map((face) => face.predict(now))];
    const pairs = [...this._assign(gray, missing, found)];
    for (const place of found) {
      let [face] = pairs.find(([, taken]) => taken === place) ?? [];
      if (!face && isPlausible(place, others)) {
        face = new Face(this._search, this._nextId++, clipBox(place.box, gray));
        this.faces.push(face);
      }
      face?.start(gray, place, now);
    }
  }
}
