"use strict";
/* Players: one clock drives all of them. A player is made when its stage comes near the screen and
   closed when it is far, because browsers allow only some tens of videos; beyond those, and where a
   video cannot be played, the lossless frames are shown one by one. */
const MOST_VIDEOS = 60;
const FAR = "250px";
const clock = { playing: false, place: 0.5, last: 0, line: null };
const live = new Set();
let lastFrame = -1;

const fpsOf = (cell) => cell.clip.fps || 8;
const framesOf = (cell) => Math.max(1, cell.frames || cell.clip.frames || 1);
/* Frames of the longest video in sight, and the rate of the first. */
const reach = { frames: 1, fps: 8 };
const currentFrame = () => Math.min(reach.frames - 1, Math.floor(clock.place + 1e-6));
const within = (cell) => Math.min(clock.place, framesOf(cell) - 0.5);
const titleOf = (cell) => `${cell.row.label}, ${cell.clip.id}`;
const absent = (text) => make("div", { className: "absent", textContent: text });

/* A stage takes the shape of its pictures, and those that are still empty that of the first. */
function setRatio(stage, width, height) {
  if (!width || !height) return;
  const ratio = `${width} / ${height}`;
  const root = document.documentElement.style;
  if (!root.getPropertyValue("--ratio")) root.setProperty("--ratio", ratio);
  stage.style.setProperty("--ratio", ratio);
}

class FramePlayer {
  constructor(stage, cell) {
    this.stage = stage;
    this.cell = cell;
    this.element = make("img", { alt: titleOf(cell), decoding: "async" });
    this.element.addEventListener("load", () =>
      setRatio(stage, this.element.naturalWidth, this.element.naturalHeight));
    this.element.addEventListener("error", () => {
      this.close();
      stage.append(absent(`Nothing can be shown here; look in ${cell.folder}.`));
    });
    this.seek();
  }
  seek() {
    const frame = Math.floor(within(this.cell) + 1e-6);
    if (frame === this.frame) return;
    this.frame = frame;
    this.element.src = `${this.cell.folder}/frames/${String(frame).padStart(4, "0")}.png`;
  }
  follow() { this.seek(); }
  rest() {}
  close() {
    live.delete(this);
    this.element.remove();
  }
}

class VideoPlayer {
  constructor(stage, cell) {
    this.stage = stage;
    this.cell = cell;
    this.element = make("video", { muted: true, playsInline: true, preload: "auto" });
    this.element.setAttribute("aria-label", titleOf(cell));
    if (cell.frames) this.element.poster = `${cell.folder}/frames/0000.png`;
    this.element.addEventListener("error", () => this.fall());
    this.element.addEventListener("loadedmetadata", () => {
      setRatio(stage, this.element.videoWidth, this.element.videoHeight);
      this.seek();
    });
    this.element.src = `${cell.folder}/video.mp4`;
  }
  /* Where this video should be, in seconds; the middle of a frame when the clock stands. */
  get time() { return within(this.cell) / fpsOf(this.cell); }
  seek() { if (this.element.readyState) this.element.currentTime = this.time; }
  follow() {
    const video = this.element;
    if (!video.readyState) return;
    const error = this.time - video.currentTime;
    const last = clock.place >= framesOf(this.cell) - 0.5;
    if (video.paused && !last) {
      video.currentTime = this.time;
      video.play().catch(() => {}); /* a pause that comes first rejects the promise; nothing is lost */
    }
    if (Math.abs(error) > 2 / fpsOf(this.cell) && !video.seeking) video.currentTime = this.time;
    const even = (view.speed * reach.fps) / fpsOf(this.cell);
    const nudge = Math.abs(error) > 0.4 / fpsOf(this.cell) ? Math.sign(error) * 0.15 : 0;
    const rate = Math.min(16, Math.max(0.0625, even * (1 + nudge)));
    if (video.playbackRate !== rate) video.playbackRate = rate;
  }
  rest() {
    this.element.pause();
    this.seek();
  }
  close() {
    live.delete(this);
    if (!this.element.hasAttribute("src")) return;
    this.element.pause();
    this.element.removeAttribute("src");
    this.element.load();
    this.element.remove();
  }
  fall() {
    if (!this.element.hasAttribute("src")) return;
    const over = this.element.classList.contains("over");
    this.stage.fallen = true;
    this.close();
    if (this.cell.frames) mount(this.stage, this.cell, over, FramePlayer);
    else this.stage.append(absent(`This video cannot be played here: ${this.cell.folder}/video.mp4`));
  }
}

const videosOpen = () => [...live].filter((player) => player instanceof VideoPlayer).length;
function mount(stage, cell, over, Kind) {
  const Player = Kind ?? (cell.video && videosOpen() < MOST_VIDEOS ? VideoPlayer : FramePlayer);
  const player = new Player(stage, cell);
  player.element.classList.toggle("over", over);
  stage.append(player.element);
  live.add(player);
  tune();
  return player;
}
const playersIn = (stage) => [...live].filter((player) => player.stage === stage);
function openStage(stage) {
  const cell = stage.cell;
  if (!cell || cell.state !== "done" || playersIn(stage).length) return;
  stage.replaceChildren();
  mount(stage, cell, false);
  const source = view.wipe && sourceOf(cell);
  stage.classList.toggle("wiped", Boolean(source && source !== cell));
  if (source && source !== cell) mount(stage, source, true);
}
function closeStage(stage) {
  playersIn(stage).forEach((player) => player.close());
}
/* Far stages close before near ones open, so that the videos allowed are those in sight. */
const watcher = new IntersectionObserver((entries) => {
  entries.forEach(({ target, isIntersecting }) => { target.near = isIntersecting; });
  entries.forEach(({ target }) => !target.near && closeStage(target));
  entries.forEach(({ target }) => target.near && openStage(target));
  promote();
}, { rootMargin: FAR });
/* Stages that had to show frames for want of room take their videos when there is room again. */
function promote() {
  for (const { stage, cell } of [...live]) {
    const waits = cell.video && !stage.fallen && playersIn(stage).some((player) => player instanceof FramePlayer);
    if (!waits || videosOpen() >= MOST_VIDEOS) continue;
    closeStage(stage);
    openStage(stage);
  }
}

function makeStage(cell) {
  const stage = make("div", { className: "stage" });
  stage.cell = cell;
  watcher.observe(stage);
  return stage;
}
function dropStages(root) {
  root.querySelectorAll(".stage").forEach((stage) => {
    watcher.unobserve(stage);
    closeStage(stage);
  });
}
function reopenStages() {
  document.querySelectorAll(".stage").forEach((stage) => {
    if (!stage.near) return;
    closeStage(stage);
    openStage(stage);
  });
}

/* The clock. */
const led = (player) => clock.line === null || player.stage.closest(".line, #cell") === clock.line;
function setReach(cells) {
  reach.frames = Math.max(1, ...cells.map(framesOf));
  reach.fps = cells.length ? fpsOf(cells[0]) : 8;
  byId("scrub").max = reach.frames - 1;
  if (clock.place > reach.frames) clock.place = 0.5;
  lastFrame = -1;
  showTime();
}
function showTime() {
  moveMarkers(clock.place);
  const frame = currentFrame();
  if (frame === lastFrame) return;
  lastFrame = frame;
  byId("scrub").value = frame;
  byId("scrub").setAttribute("aria-valuetext", `frame ${frame} of ${reach.frames}`);
  byId("frame").textContent = `frame ${frame} / ${reach.frames - 1}`;
  showReadings(frame);
}
function showPlaying() {
  const button = byId("play");
  button.textContent = clock.playing ? "❚❚ Pause" : "▶ Play";
  document.querySelectorAll(".line .solo").forEach((each) => {
    const on = clock.playing && clock.line === each.closest(".line");
    each.textContent = on ? "❚❚" : "▶";
    each.setAttribute("aria-pressed", String(on));
  });
}
function goTo(frame) {
  pause();
  clock.place = (((frame % reach.frames) + reach.frames) % reach.frames) + 0.5;
  live.forEach((player) => player.seek());
  view.frame = currentFrame();
  showTime();
  keepAddress();
}
function pause() {
  if (!clock.playing) return;
  clock.playing = false;
  clock.place = currentFrame() + 0.5;
  live.forEach((player) => player.rest());
  view.frame = currentFrame();
  showPlaying();
  showTime();
  keepAddress();
}
/* Of all videos that play at most one is heard: the chosen cell's, else the first. */
let audible = false;
function tune() {
  const sounding = [...live].filter((player) =>
    player instanceof VideoPlayer && player.cell.clip.sound && led(player));
  const heard = audible && (sounding.find((player) => player.stage.closest("#cell")) ?? sounding[0]);
  live.forEach((player) => { player.element.muted = player !== heard; });
}
/* line: only the videos of that line play; all of them otherwise. */
function play(line = null) {
  if (clock.playing) live.forEach((player) => player.rest());
  if (!view.loop && clock.place >= reach.frames - 0.6) clock.place = 0;
  clock.line = line;
  clock.playing = true;
  clock.last = performance.now();
  tune();
  showPlaying();
  requestAnimationFrame(tick);
}
function tick(now) {
  if (!clock.playing || now <= clock.last) {
    if (clock.playing) requestAnimationFrame(tick);
    return;
  }
  clock.place += (Math.min(250, now - clock.last) / 1000) * view.speed * reach.fps;
  clock.last = now;
  if (clock.place >= reach.frames) {
    if (!view.loop) {
      clock.place = reach.frames - 0.5;
      pause();
      return;
    }
    clock.place %= reach.frames;
    live.forEach((player) => led(player) && player.seek());
  }
  live.forEach((player) => led(player) && player.follow());
  showTime();
  requestAnimationFrame(tick);
}
