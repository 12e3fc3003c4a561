/**
 * The labs of the package, which teach by writing code. labs.html lists them.
 *
 * @type {{title: string, about: string}[]}
 */
export const LABS = [
  { title: "Noise", about: "compute x_t in one step, and explain the square roots and the SNR" },
  { title: "Sampling", about: "write DDPM sampling, and show what happens without the noise" },
  { title: "Training", about: "write the training loop with EMA, and read its curves" },
  { title: "Context", about: "condition a model on labels, mix them, and guide it" },
  { title: "Fast sampling", about: "write DDIM and DPM-Solver++, and measure the order of convergence" },
  { title: "Patterns from nothing", about: "build a recipe for new data, from drawn circles to samples" },
  { title: "Digits and clothes", about: "compare schedules, bring your own images, and judge samples with FID" },
  { title: "Flow matching", about: "translate flow matching to diffusion and back, and sample with midpoint" },
  { title: "The exact denoiser", about: "compute the best possible denoiser, and tell generalisation from memorisation" },
  { title: "Editing", about: "interpolate, vary and inpaint images with a trained model" },
  { title: "Few steps", about: "explain why the mean blurs, and train a student with a critic" },
  { title: "Inside the network", about: "build the parts of the U-Net until its output matches, and a transformer block" },
  { title: "The bug clinic", about: "find a bug from its symptom, and mend it" },
  {
    title: "Masked diffusion",
    about: "generate images and words by revealing what is hidden, and measure the price of haste",
  },
];
