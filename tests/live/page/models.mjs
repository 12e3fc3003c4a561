// Two models as described by an engine: one in colour with labels, one in grey without.

export const sprites = {
  name: "sprites",
  about: "characters",
  channels: 3,
  height: 2,
  width: 2,
  labels: ["human", "food"],
  T: 500,
  alpha_bar: Array.from({ length: 501 }, (_, t) => Math.cos((t / 501) * (Math.PI / 2)) ** 2),
  prediction: "x0",
  sampling: { sampler: "ddim", steps: 24, eta: 1, spacing: "log_snr" },
  creativity: 350,
  turbo: false,
};
export const plain = {
  ...sprites,
  name: "runs/plain",
  channels: 1,
  labels: [],
  T: 40,
  alpha_bar: Array.from({ length: 41 }, (_, t) => 1 - t / 41),
  sampling: { sampler: "dpmpp_2m", steps: 60, eta: 0, spacing: "even" },
  creativity: 30,
};
export const MODELS = [sprites, plain];
