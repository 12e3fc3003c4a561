/**
 * Code that makes the picture on the page: as Python, and as a command. Both are plain text made of the settings.
 *
 * @import { Label, ModelInfo, Settings } from "../engine/protocol.js"
 * @import { Chain } from "../engine/session.js"
 */

import { WITH_ETA } from "../engine/samplers.js";

export const PICTURE = "dream-start.png"; // what code calls a picture that no seed leads to
const FRAMES = 60; // of an animation that goes on from a picture

/**
 * @typedef {object} Code
 * @property {string} code         "" where there is none
 * @property {string} note         what has to be known about it
 * @property {boolean} picture     whether it needs the picture PICTURE beside it
 */

/** @param {Chain} chain @param {ModelInfo} model @returns {Code} */
export function asPython({ settings, frame, image }, model) {
  const { num, creativity } = settings;
  const way = `way = Way(${wayArguments(settings)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ")})`;
  const load = `model = shapedreamer.load(${quoted(settings.model)}, precision="float32")`;
  const melts = creativity > 0 && (frame > 0 || image !== null);
  if (image === null) {
    const lines = [
      ...imports([], melts ? ["melt"] : []),
      load,
      way,
      `images = model.sample(${num}, *way)`,
      ...(melts
        ? [`images = melt(model, images, t=${creativity}, frames=${frame + 1}, num=${num}, way=way)[${frame}]`]
        : []),
      'render.save_picture(render.grid(images), Path("dream.png"))',
    ];
    return { code: text(lines), note: "The seed alone leads to this picture.", picture: false };
  }
  const { height, width, channels } = model;
  const many = num > 1;
  const lines = [
    ...imports(many ? ["import numpy as np", "import torch", "from PIL import Image", ""] : [], [
      ...(melts ? ["melt"] : []),
      ...(many ? [] : ["read_image"]),
    ]),
    load,
    ...(melts ? [way] : []),
    ...(many
      ? [
          `pixels = torch.tensor(np.array(Image.open("${PICTURE}"))).reshape(${num}, ${height}, ${width}, ${channels})`,
          "images = pixels.permute(0, 3, 1, 2) / 127.5 - 1",
        ]
      : [`images = read_image(Path("${PICTURE}"), model.spec)`]),
    'render.save_picture(render.grid(images), Path("dream.png"))',
    ...(melts
      ? [
          `frames = melt(model, images, t=${creativity}, frames=${FRAMES}, num=${num}, way=way)`,
          'render.save_animation([render.grid(frame) for frame in frames], Path("dream.gif"))',
        ]
      : []),
  ];
  const on = melts ? ", and dreams on from it as this page does" : "";
  return {
    code: text(lines),
    note: `No seed alone leads to this picture: save it as ${PICTURE}. The code begins with it${on}.`,
    picture: true,
  };
}

/** @param {Chain} chain @param {ModelInfo} model @returns {Code} */
export function asCommand({ settings, frame, image }, model) {
  const { num, creativity, label } = settings;
  const name = shell(settings.model);
  const way = wayOptions(settings, model);
  const none = (/** @type {string} */ why) => ({
    code: "",
    note: `There is no command for this picture: ${why} Python can make it.`,
    picture: false,
  });
  if (way === null) return none("one of its labels has a comma or an equals sign in its name.");
  const melts = creativity > 0 && (frame > 0 || image !== null);
  if (image === null && !melts) {
    return {
      code: `shapedreamer sample ${name} --num ${num}${way} --out dream.png`,
      note: "The seed alone leads to this picture.",
      picture: false,
    };
  }
  if (num > 1) return none("a command melts variations of one picture, not several.");
  const melt = `--num 1 --creativity ${creativity}${way} --out dream.webp`;
  if (image === null) {
    const note = `The last frame of this animation is the picture.`;
    return { code: `shapedreamer explore ${name} vary --frames ${frame + 1} ${melt}`, note, picture: false };
  }
  if (!melts) return none("it is the picture that was given, and creativity 0 leaves it so.");
  if (label === "any" && model.labels.length > 0) return none("it takes the labels of a picture file to be unknown.");
  const note = `No seed alone leads to this picture: save it as ${PICTURE}. The command dreams on from it as this page does.`;
  return {
    code: `shapedreamer explore ${name} vary --image ${PICTURE} --frames ${FRAMES} ${melt}`,
    note,
    picture: true,
  };
}

/** @param {Settings} settings @returns {[string, string][]} */
function wayArguments({ sampler, steps, eta, seed, label, guidance }) {
  const labelled = label === "any" ? [] : [["label", label === "none" ? "None" : dictionary(label)]];
  return /** @type {[string, string][]} */ ([
    ["sampler", quoted(sampler)],
    ["steps", `${steps}`],
    ...(WITH_ETA.includes(sampler) ? [["eta", `${eta}`]] : []),
    ["seed", seed],
    ...labelled,
    ...(guidance === 1 ? [] : [["guidance", `${guidance}`]]),
  ]);
}

/**
 * Options with a space before each; null where they cannot say it.
 * @param {Settings} settings
 * @param {ModelInfo} model
 */
function wayOptions({ sampler, steps, eta, seed, label, guidance }, model) {
  let words = ` --precision float32 --sampler ${sampler} --steps ${steps}`;
  if (WITH_ETA.includes(sampler)) words += ` --eta ${eta}`;
  words += ` --seed ${seed}`;
  if (label === "none") words += " --label none";
  else if (label !== "any") {
    const amounts = Object.entries(label).length ? Object.entries(label) : [[model.labels[0], 0]];
    if (amounts.some(([name]) => /[,=]/.test(`${name}`))) return null;
    words += ` --label ${shell(amounts.map(([name, amount]) => `${name}=${amount}`).join(","))}`;
  }
  if (guidance !== 1) words += ` --guidance ${guidance}`;
  return words;
}

/** @param {string[]} others @param {string[]} explore */
function imports(others, explore) {
  return [
    "from pathlib import Path",
    "",
    ...others,
    "import shapedreamer",
    "from shapedreamer import render",
    "from shapedreamer.dream import Way",
    ...(explore.length ? [`from shapedreamer.explore import ${explore.join(", ")}`] : []),
    "",
  ];
}

/** @param {Record<string, number>} label */
function dictionary(label) {
  return `{${Object.entries(label)
    .map(([name, amount]) => `${quoted(name)}: ${amount}`)
    .join(", ")}}`;
}

/** As a string of Python, whose escapes are those of JSON. @param {string} word */
const quoted = (word) => JSON.stringify(word);

/** As a word of a shell. @param {string} word */
const shell = (word) => (/^[\w./=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** @param {string[]} lines */
const text = (lines) => `${lines.join("\n")}\n`;
