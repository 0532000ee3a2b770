/* A module that tbn_bench made of a network, as a function of numbers. about: name, activations, shapes and scales of the network. */
function tbnNetwork(about) {
  const size = (shape) => shape.reduce((product, length) => product * length, 1);
  const Values = about.activations === "u8" ? Uint8Array : Float32Array;
  const Results = about.activations === "u8" ? Int32Array : Float32Array;

  function checked(status, what) {
    if (status !== 0) throw new Error(`${about.name}: ${what} gives status ${status}; export the network again`);
  }

  /* source: the bytes of the .wasm file, a Response with them, or a promise of either. */
  async function load(source) {
    let bytes = await source;
    if (typeof Response !== "undefined" && bytes instanceof Response) {
      if (!bytes.ok) throw new Error(`${bytes.url}: ${bytes.status} ${bytes.statusText}`);
      bytes = await bytes.arrayBuffer();
    }
    const { instance } = await WebAssembly.instantiate(bytes, {});
    const module = instance.exports;
    checked(module.init(), "init");
    checked(module.selftest(), "the self-test"); /* every layer, bit for bit, in this very browser */
    const memory = module.memory.buffer; /* it never grows */
    const inputs = new Values(memory, module.input(), size(about.input_shape));
    const outputs = new Results(memory, module.output(), about.outputs);

    /* x: bytes or floats, as the C library takes them: (height, width, channels). Returns the real values of the outputs. */
    function run(x) {
      if (x.length !== inputs.length) {
        throw new Error(`${about.name} takes ${inputs.length} values (${about.input_shape.join(" x ")}), got ${x.length}`);
      }
      inputs.set(x);
      checked(module.run(), "run");
      return Float64Array.from(outputs, (value) => value * about.output_scale);
    }

    /* The softmax of the outputs: a probability for each class. */
    function probabilities(x) {
      const scores = run(x);
      const largest = Math.max(...scores);
      const powers = scores.map((score) => Math.exp(score - largest));
      const total = powers.reduce((sum, power) => sum + power, 0);
      return powers.map((power) => power / total);
    }

    return { about, run, probabilities };
  }

  return { about, load };
}
