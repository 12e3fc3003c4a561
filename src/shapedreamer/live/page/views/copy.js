/**
 * Code that generates the picture on the page: a Python script and a command, built from the settings.
 *
 * @import { ModelInfo, Settings } from "../engine/protocol.js"
 * @import { Snapshot } from "../engine/session.js"
 */

import { HAS_ETA, isSample } from "../engine/state.js";

export const PICTURE = "dream-start.png"; // file name of a start picture that no seed reproduces
const MAX_FRAMES = 10_000; // of an animation that the command writes
const FRAMES = 60; // length of the animation that continues from such a picture

/**
 * @typedef {object} Code
 * @property {string} code         "" if there is none
 * @property {string} note         an explanation for the user
 * @property {boolean} picture     whether the code reads the file PICTURE
 */

/** @param {Snapshot} snapshot @param {ModelInfo} model @returns {Code} */
export function asPython({ settings, frame, image }, model) {
  const { num, creativity, every } = settings;
  const makeOptions = `options = SampleOptions(${sampleArguments(settings)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ")})`;
  const load = `model = shapedreamer.load(${quoted(settings.model)}, precision="float32")`;
  const melts = creativity > 0 && (frame > 0 || image !== null);
  /** @param {string} first @param {number} frames */
  const melt = (first, frames) => {
    const replaced = every ? `, every=${every}` : "";
    return `melt(model, ${first}, t=${creativity}, frames=${frames}, num=${num}, options=options${replaced})`;
  };
  if (image === null && frame > 0 && isSample(settings, frame)) {
    const lines = [
      ...imports([], ["drift_frame"]),
      load,
      makeOptions,
      `images = drift_frame(model, ${frame}, num=${num}, options=options, every=${every})`,
      'render.save_picture(render.grid(images), Path("dream.png"))',
    ];
    return { code: text(lines), note: "The seed, the settings and the frame number reproduce this picture.", picture: false };
  }
  if (image === null) {
    const lines = [
      ...imports([], melts ? ["melt"] : []),
      load,
      makeOptions,
      `images = model.sample(${num}, options)`,
      ...(melts ? [`images = ${melt("images", frame + 1)}[${frame}]`] : []),
      'render.save_picture(render.grid(images), Path("dream.png"))',
    ];
    return { code: text(lines), note: "The seed and the settings reproduce this picture.", picture: false };
  }
  const { height, width, channels } = model;
  const isGrid = num > 1;
  const lines = [
    ...imports(isGrid ? ["import numpy as np", "import torch", "from PIL import Image", ""] : [], [
      ...(melts ? ["melt"] : []),
      ...(isGrid ? [] : ["read_image"]),
    ]),
    load,
    ...(melts ? [makeOptions] : []),
    ...(isGrid
      ? [
          `pixels = torch.tensor(np.array(Image.open("${PICTURE}"))).reshape(${num}, ${height}, ${width}, ${channels})`,
          "images = pixels.permute(0, 3, 1, 2) / 127.5 - 1",
        ]
      : [`images = read_image(Path("${PICTURE}"), model.spec)`]),
    'render.save_picture(render.grid(images), Path("dream.png"))',
    ...(melts
      ? [
          `frames = ${melt("images", FRAMES)}`,
          'render.save_animation([render.grid(frame) for frame in frames], Path("dream.gif"))',
        ]
      : []),
  ];
  const continues = melts ? " and continues the animation as this page does" : "";
  return {
    code: text(lines),
    note: `No seed reproduces this picture, so save it as ${PICTURE} first. The code starts from it${continues}.`,
    picture: true,
  };
}

/** @param {Snapshot} snapshot @param {ModelInfo} model @returns {Code} */
export function asCommand({ settings, frame, image }, model) {
  const { num, creativity, label, motion, every } = settings;
  const name = shell(settings.model);
  const options = sampleOptions(settings, model);
  const none = (/** @type {string} */ reason) => ({
    code: "",
    note: `There is no command for this picture: ${reason}. Use the Python code instead.`,
    picture: false,
  });
  if (options === null) return none("a label name contains a comma or an equals sign");
  const moves = image === null ? frame > 0 && (creativity > 0 || motion === "drift") : creativity > 0;
  if (image === null && !moves) {
    return {
      code: `shapedreamer sample ${name} --num ${num}${options} --out dream.png`,
      note: "The seed and the settings reproduce this picture.",
      picture: false,
    };
  }
  const note = "This picture is the last frame of the animation.";
  if (image === null && frame >= MAX_FRAMES) return none(`it would make an animation of more than ${MAX_FRAMES} frames`);
  if (image === null && motion === "drift") {
    const code = `shapedreamer explore ${name} drift --frames ${frame + 1} --every ${every} --num ${num}${options}`;
    return { code: `${code} --out dream.webp`, note, picture: false };
  }
  if (num > 1) return none("the command varies one picture, not several");
  const melt = `--num 1 --creativity ${creativity}${every ? ` --every ${every}` : ""}${options} --out dream.webp`;
  if (image === null) {
    return { code: `shapedreamer explore ${name} vary --frames ${frame + 1} ${melt}`, note, picture: false };
  }
  if (!moves) return none("with creativity 0 the start picture does not change");
  const without = label === "any" && model.labels.length > 0 ? ", without a class label, which a file does not have" : "";
  return {
    code: `shapedreamer explore ${name} vary --image ${PICTURE} --frames ${FRAMES} ${melt}`,
    note: `No seed reproduces this picture, so save it as ${PICTURE} first. The command continues from it${without}.`,
    picture: true,
  };
}

/** Keyword arguments for Python. @param {Settings} settings @returns {[string, string][]} */
function sampleArguments({ sampler, steps, eta, seed, label, guidance }) {
  const labelArgument = label === "any" ? [] : [["label", label === "none" ? "None" : dictionary(label)]];
  return /** @type {[string, string][]} */ ([
    ["sampler", quoted(sampler)],
    ["steps", `${steps}`],
    ...(HAS_ETA.includes(sampler) ? [["eta", `${eta}`]] : []),
    ["seed", seed],
    ...labelArgument,
    ...(guidance === 1 ? [] : [["guidance", `${guidance}`]]),
  ]);
}

/**
 * Command-line options, each after a space; null if the command line has no syntax for the label.
 * @param {Settings} settings
 * @param {ModelInfo} model
 */
function sampleOptions({ sampler, steps, eta, seed, label, guidance }, model) {
  let options = ` --precision float32 --sampler ${sampler} --steps ${steps}`;
  if (HAS_ETA.includes(sampler)) options += ` --eta ${eta}`;
  options += ` --seed ${seed}`;
  if (label === "none") options += " --label none";
  else if (label !== "any") {
    const amounts = Object.entries(label).length ? Object.entries(label) : [[model.labels[0], 0]];
    if (amounts.some(([name]) => /[,=]/.test(`${name}`))) return null;
    options += ` --label ${shell(amounts.map(([name, amount]) => `${name}=${amount}`).join(","))}`;
  }
  if (guidance !== 1) options += ` --guidance ${guidance}`;
  return options;
}

/** @param {string[]} others @param {string[]} explore  names to import from imaging.editing */
function imports(others, explore) {
  return [
    "from pathlib import Path",
    "",
    ...others,
    "import shapedreamer",
    "from shapedreamer import render",
    ...(explore.length ? [`from shapedreamer.imaging.editing import ${explore.join(", ")}`] : []),
    "from shapedreamer.models.options import SampleOptions",
    "",
  ];
}

/** A Python dict. @param {Record<string, number>} label */
function dictionary(label) {
  return `{${Object.entries(label)
    .map(([name, amount]) => `${quoted(name)}: ${amount}`)
    .join(", ")}}`;
}

/** A Python string literal; its escapes are those of JSON. @param {string} text */
const quoted = (text) => JSON.stringify(text);

/** A shell word, quoted if necessary. @param {string} word */
const shell = (word) => (/^[\w./=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** @param {string[]} lines */
const text = (lines) => `${lines.join("\n")}\n`;
