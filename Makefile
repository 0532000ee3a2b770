# POSIX make. Every target makes .venv first if it is missing; a second call is quick.
.POSIX:
PYTHON = python3
BIN = .venv/bin

venv: .venv/done

NATIVE = tbn_bench/native/src
SOURCES = CMakeLists.txt $(NATIVE)/tbn.h $(NATIVE)/plan.cpp $(NATIVE)/ops.inc $(NATIVE)/fma.inc $(NATIVE)/dense.inc $(NATIVE)/lut.inc $(NATIVE)/level_generic.cpp $(NATIVE)/level_avx2.cpp \
	$(NATIVE)/level_avx512.cpp $(NATIVE)/lookup512.inc $(NATIVE)/transformer.inc $(NATIVE)/a14.cpp $(NATIVE)/level_amx.cpp $(NATIVE)/amx_blocks.inc

.venv/done: pyproject.toml constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m tbn_bench.native
	touch .venv/done

# As venv, from the tested set alone: every file must have the hash that requirements.lock lists.
locked:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps -e .
	$(BIN)/python -m tbn_bench.native
	touch .venv/done

# requirements.lock again, after a change of pyproject.toml or constraints.txt (needs uv).
lock:
	uv pip compile pyproject.toml --extra dev -c constraints.txt --generate-hashes --universal --python-version 3.11 \
		--no-annotate --custom-compile-command "make lock" -o requirements.lock

quickstart: .venv/done
	$(BIN)/tbn-bench sweep sweeps/quickstart.yaml --results results/quickstart --jobs 2
	$(BIN)/tbn-bench latency --suite quickstart --results results/quickstart --few-peers --skip-done
	$(BIN)/tbn-bench report --results results/quickstart --out reports/quickstart

test: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The committed pages, tables and figures of the committed records, and what README.md and docs/results.md
# show of them; a test compares them.
reports: .venv/done
	$(BIN)/tbn-bench report --results results --out reports
	$(BIN)/tbn-bench report --results results --out reports --paper
	$(BIN)/python docs/fill.py

# docs/draw.html, the page that reads drawn digits, of the committed networks; a test compares it.
draw: .venv/done
	$(BIN)/python docs/draw/build.py

# The documentation as a site, in site/. Broken links are errors, which --quiet would hide.
docs: .venv/done
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open site/index.html"

# The tests that take less than half a second each: two minutes on two cores.
test-quick: .venv/done
	$(BIN)/ruff check .
	$(BIN)/pytest --quick -n 2 --dist loadfile --no-loadscope-reorder

test-all: .venv/done
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not gpu"

# Mutated inputs of every reader: some minutes. A failure prints its input; each fuzzer ends with one line of JSON.
FUZZERS = call_strings sweep_files packed_files records

fuzz: .venv/done
	for name in $(FUZZERS); do $(BIN)/python -m tests.fuzz.$$name || exit 1; done

# Trained MNIST networks -> C -> simulated Cortex-M4 and Arduino Uno -> the table. Trains what is missing (half an hour on 2 cores), needs
# the tools that it names where they are absent.
mcu: .venv/done
	$(BIN)/tbn-bench mcu run --suite mnist_mcu
	$(BIN)/tbn-bench mcu run --suite mnist_mcu --core uno
	$(BIN)/tbn-bench mcu run --suite mnist_cnn
	$(BIN)/tbn-bench mcu report

# All that waits for a GPU, what takes least first; resumable: finished runs are skipped, timings are made again.
gpu: .venv/done
	$(BIN)/pytest -m gpu
	$(BIN)/tbn-bench latency --suite linear --device cuda --batch 1 64 4096
	$(BIN)/tbn-bench bench --device cuda --batch 256
	$(BIN)/tbn-bench latency --suite vit --device cuda
	$(BIN)/tbn-bench sweep sweeps/cifar10_resnet18.yaml --device cuda --jobs 1 --channels-last
	$(BIN)/tbn-bench latency --suite cifar10_resnet18 --device cuda

# Every committed certificate, recomputed from its packed file: minutes. CIFAR-10 is found under $TBN_BENCH_DATA or data/; without it
# hashes, bits and bytes are verified alone. 20 of the test images that the committed runs saw are not the official ones (docs/certificates.md).
arena-check: .venv/done
	$(BIN)/tbn-bench verify results/certificates --numpy 100 --other-samples 20 $(VERIFY_FLAGS)

# The CIFAR-10 arena: tells its cost, trains what is missing, certifies it and verifies all. Days on two cores; resumable.
ARENA = sweeps/cifar10_fast.yaml sweeps/cifar10_fast_narrow.yaml
ARENA_RESNET = sweeps/cifar10_resnet18_fast.yaml
ARENA_FLAGS = --jobs 2 --threads 1 --nice 19 --channels-last

arena: .venv/done
	$(BIN)/tbn-bench sweep $(ARENA) $(ARENA_FLAGS) --dry-run | grep -E '^(time|disk):'
	$(BIN)/tbn-bench sweep $(ARENA_RESNET) $(ARENA_FLAGS) --dry-run | grep -E '^(time|disk):'
	$(BIN)/tbn-bench sweep $(ARENA) $(ARENA_FLAGS)
	$(BIN)/tbn-bench sweep $(ARENA_RESNET) $(ARENA_FLAGS)
	$(BIN)/tbn-bench certify cifar10_fast cifar10_resnet18_fast --numpy 100
	$(MAKE) arena-check

.PHONY: venv locked lock quickstart reports draw docs test test-quick test-all fuzz mcu gpu arena arena-check
