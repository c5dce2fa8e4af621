// Runs the original NanoDet-g with TensorFlow.js on images and writes its outputs: node run_nanodet.mjs MODEL IN OUT
// TensorFlow.js is searched in node_modules of the current folder.
// MODEL: folder of nanodet.json and nanodet.bin; IN: float32 images of shape (n, 3, 416, 416), normalized BGR;
// OUT: per image, scores (3549, 80) and then distances (3549, 44), float32.
import fs from "node:fs";
import { createRequire } from "node:module";

const tf = createRequire(`${process.cwd()}/`)("@tensorflow/tfjs");
const [folder, input, output] = process.argv.slice(2);
const { modelTopology, weightsManifest } = JSON.parse(fs.readFileSync(`${folder}/nanodet.json`));
const weights = fs.readFileSync(`${folder}/nanodet.bin`);
const weightData = weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.length);
const artifacts = { modelTopology, weightSpecs: weightsManifest[0].weights, weightData };
await tf.setBackend("cpu");
const model = await tf.loadGraphModel(tf.io.fromMemory(artifacts));
const bytes = fs.readFileSync(input);
const images = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const size = 3 * 416 * 416;
const results = [];
for (let first = 0; first < images.length; first += size) {
  const image = tf.tensor(images.slice(first, first + size), [1, 3, 416, 416]);
  const names = ["Identity", "Identity_1", "Identity_2", "Identity_3", "Identity_4", "Identity_5"];
  const outputs = await model.executeAsync(image, names.map((name) => `${name}:0`));
  for (const tensor of outputs) results.push(Buffer.from((await tensor.data()).slice().buffer));
}
fs.writeFileSync(output, Buffer.concat(results));
