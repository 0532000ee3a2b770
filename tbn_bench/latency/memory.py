"""python -m tbn_bench.latency.memory FILE native|dense

Prints the memory that loading and running a network adds to a fresh process, as one JSON line. It
counts anonymous resident memory (weights, activations, whatever the engine keeps), before and
after, and its peak in between. The packages are imported before. `native` runs the packed file by
the plan executor, `dense` expands it to float32 and runs it in torch.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ENGINES = ("native", "dense")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only")


def _float_bytes(model: Any) -> int:
    """Of all tensors of a network in float32: no file of its weights needs more."""
    return sum(4 * tensor.numel() for tensor in model.state_dict().values())


def measure(path: Path, engine: str) -> dict[str, int]:
    """Bytes added to this process by loading and running the packed file: {"grown", "peak"}."""
    import torch

    from tbn_bench import catalog
    from tbn_bench.compiler.executor import Executor
    from tbn_bench.config import make
    from tbn_bench.experiment import skeleton
    from tbn_bench.format import packed_file

    torch.set_num_threads(1)
    config = packed_file.read(path).config or {}
    data = catalog.build("data", make(config).data)
    x = torch.zeros(1, *data.in_shape)
    _warm_up()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("RssAnon")
    if engine == "native":
        model = skeleton.load(path)
        run: Any = Executor(model, x)
    else:
        run = _dense(path, config)
    with torch.no_grad():
        run(x)
    after = _status("RssAnon")
    not_anonymous = _status("VmRSS") - _status("RssAnon")
    return {
        "grown": after - before,
        "peak": _status("VmHWM") - not_anonymous - before,
    }


def _warm_up() -> None:
    """Loads code and caches of both engines once."""
    import torch

    from tbn_bench.compiler.executor import Executor

    image = torch.zeros(1, 3, 32, 32)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3)).eval()
    Executor(network, image)(image)
    torch.nn.Conv2d(3, 1, 3)(image)


def _dense(path: Path, config: dict[str, Any]) -> Any:
    import torch

    from tbn_bench.experiment import skeleton
    from tbn_bench.format import packed_file

    empty = skeleton.skeleton(config)
    model = skeleton.materialised(empty).eval()
    content = packed_file.read(path)
    unpacked = content.dense(_float_bytes(model))
    arrays = {**content.tensors, **unpacked}
    names = model.state_dict().keys()
    dense = {name: torch.from_numpy(array) for name, array in arrays.items() if name in names}
    model.load_state_dict(dense, strict=False, assign=True)
    return model


def on_gpu(network: Any, x: Any) -> dict[str, int]:
    """Bytes of CUDA memory that a network in eval mode takes.

    At rest, after a first pass over x, and at the peak of the next one. Both count everything that
    torch allocates for the network: weights, what kernels keep of them, and, at the peak,
    activations.
    """
    import torch

    before = torch.cuda.memory_allocated()
    network = network.eval().to("cuda")
    x = x.to("cuda")
    with torch.no_grad():
        network(x)
        torch.cuda.synchronize()
        resting = torch.cuda.memory_allocated() - before
        torch.cuda.reset_peak_memory_stats()
        network(x)
        torch.cuda.synchronize()
    return {
        "gpu_resting_bytes": resting,
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() - before,
    }


def in_fresh_process(path: Path, engine: str) -> dict[str, int] | None:
    """measure() in a process of its own; None where that cannot be measured."""
    command = [sys.executable, "-m", "tbn_bench.latency.memory", str(path), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout:
        return None
    last = done.stdout.splitlines()[-1]
    found: dict[str, int] = json.loads(last)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
