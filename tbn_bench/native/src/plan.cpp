// The plan executor: one call runs a whole network, a few images at a time through all its layers, so that activations stay in cache.
#include <stdlib.h>
#include <string.h>
#include <math.h>
#ifndef _WIN32
#include <pthread.h>
#endif
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <vector>
#include "tbn.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

const Level* const kLevels[] = {
#if defined(__x86_64__)
    &tbn_level_amx, &tbn_level_avx512, &tbn_level_avx2,
#endif
    &tbn_level_generic};

struct Free {
  void operator()(void* data) const { free(data); }
};

// `bytes` of zeros at a multiple of 64. Throws std::bad_alloc.
std::unique_ptr<void, Free> zeros(long bytes) {
  void* data = nullptr;
  if (posix_memalign(&data, 64, bytes)) throw std::bad_alloc();
  memset(data, 0, bytes);
  return std::unique_ptr<void, Free>(data);
}

struct Arena : Scratch {
  struct Part {
    std::unique_ptr<void, Free> data;
    long bytes = 0;
  };
  Part parts[SLOTS];

  static void* grow(Scratch* self, Slot slot, long bytes) {
    Part& part = static_cast<Arena*>(self)->parts[slot];
    if (part.bytes < bytes) {
      part.data.reset();  // before it is made anew: both at once may not fit
      part.bytes = 0;
      long roomy = bytes + bytes / 8;
      part.data = zeros(roomy + 4096);
      part.bytes = roomy;
    }
    return part.data.get();
  }
  Arena() { get = grow; }
};

}  // namespace

struct Value { int32_t H, W, C, pad; int64_t offset; };

namespace {
long size_of(const Value& v) { return (long)v.H * v.W * v.C; }
}

// Values are (G, H, W, C) float32 at `offset` floats per image into the arena. kind: a row of kKinds (ops.inc).
struct Op {
  int32_t kind, in, in2, out;              // value ids; in2 = -1 where there is none
  int32_t kh, kw, sh, sw, ph, pw, dh, dw;  // geometry of convolutions and pools; for PAD_CHANNELS sh, sw = subsampling, ph = channels in front
  int32_t groups, p, relu, R;              // R rows per group; of ATTENTION heads, of SELECT the position
  const void* weights;                     // one Weights* per group; of GATHER one coefficient per piece of every row, of TOKENS what is added
  const float *scale, *shift;              // (out channels)
  float eps, high;                         // of LAYER_NORM; of CLAMP both ends; of ATTENTION the scale
};

struct Plan {
  int32_t ops, values, inputs, outputs, planes, level;
  int64_t floats;           // arena floats per image
  int32_t group, reserved;  // images that go through together
  const Op* op;
  const Value* value;
  const int32_t *input, *output;                // value ids
  const int32_t *input_is_nhwc, *output_is_nhwc;  // true: the caller keeps it as (H, W, C), else as (C, H, W)
};

API int tbn_level_count() { return (int)(sizeof kLevels / sizeof *kLevels); }
API const char* tbn_level_name(int i) { return kLevels[i]->name; }
API int tbn_level_available(int i) { return kLevels[i]->available(); }

API int tbn_planes_available(int level, int planes) { return kLevels[level]->takes(planes); }

namespace {
// Weights with the memory that a level laid them out in.
struct OwnedWeights : Weights {
  OwnedWeights() : Weights() {}
  ~OwnedWeights() { free(data); }
};
}  // namespace

API void* tbn_prepare(int level, int kind, int R, int C, int kh, int kw, const uint8_t* bits, const float* dense) {
  std::unique_ptr<OwnedWeights> w(new (std::nothrow) OwnedWeights);
  if (!w) return nullptr;
  w->kind = kind;
  w->R = R;
  w->C = C;
  w->kh = kh;
  w->kw = kw;
  w->K = (long)C * kh * kw;
  w->copies = 1;
  if (kLevels[level]->prepare(w.get(), bits, dense)) return nullptr;
  return static_cast<Weights*>(w.release());
}

API int64_t tbn_weight_bytes(const void* weights) { return weights ? ((const Weights*)weights)->bytes : 0; }

API void tbn_free(void* weights) { std::unique_ptr<OwnedWeights> freed(static_cast<OwnedWeights*>((Weights*)weights)); }

#include "ops.inc"

namespace {

// Images [i, i + G) of the inputs and outputs of a call. A value that the caller keeps in the layout of the arena is read and written in
// the caller's memory, unless an output overlaps an input.
struct Call {
  const Plan* plan;
  const float* const* in;
  float* const* out;
  bool apart;  // no output overlaps an input

  Call(const Plan* plan, const float* const* in, float* const* out, int64_t n) : plan(plan), in(in), out(out), apart(true) {
    for (int k = 0; k < plan->inputs; k++)
      for (int j = 0; j < plan->outputs; j++) {
        const float *x = in[k], *y = out[j];
        if (x < y + n * size_of(plan->value[plan->output[j]]) && y < x + n * size_of(plan->value[plan->input[k]])) apart = false;
      }
  }

  bool same(int value, int nhwc) const {
    const Value& v = plan->value[value];
    return nhwc || v.H * v.W == 1 || v.C == 1;
  }

  // The address of each value of these images: in the caller's memory, or in the arena.
  float** places(int64_t i, int G, Arena* arena) const {
    float* base = (float*)arena->get(arena, SLOT_VALUES, plan->floats * plan->group * 4);
    float** at = (float**)arena->get(arena, SLOT_PLACES, plan->values * sizeof(float*));
    for (int v = 0; v < plan->values; v++) at[v] = base + plan->value[v].offset * G;
    for (int k = plan->outputs - 1; k >= 0 && apart; k--)
      if (same(plan->output[k], plan->output_is_nhwc[k])) at[plan->output[k]] = out[k] + i * size_of(plan->value[plan->output[k]]);
    for (int k = plan->inputs - 1; k >= 0 && apart; k--)
      if (same(plan->input[k], plan->input_is_nhwc[k]))
        at[plan->input[k]] = const_cast<float*>(in[k]) + i * size_of(plan->value[plan->input[k]]);  // no op writes to an input
    return at;
  }

  void copy_in(int64_t i, int G, float* const* at) const {
    for (int k = 0; k < plan->inputs; k++) {
      const Value& v = plan->value[plan->input[k]];
      long size = size_of(v), pixels = (long)v.H * v.W;
      const float* x = in[k] + i * size;
      float* y = at[plan->input[k]];
      if (x == y) continue;
      if (same(plan->input[k], plan->input_is_nhwc[k])) memcpy(y, x, size * G * 4);
      else
        for (int g = 0; g < G; g++) transpose(x + g * size, v.C, pixels, y + g * size);
    }
  }

  void copy_out(int64_t i, int G, float* const* at) const {
    for (int k = 0; k < plan->outputs; k++) {
      const Value& v = plan->value[plan->output[k]];
      long size = size_of(v), pixels = (long)v.H * v.W;
      const float* x = at[plan->output[k]];
      float* y = out[k] + i * size;
      if (x == y) continue;
      if (same(plan->output[k], plan->output_is_nhwc[k])) memcpy(y, x, size * G * 4);
      else
        for (int g = 0; g < G; g++) transpose(x + g * size, pixels, v.C, y + g * size);
    }
  }
};

void run_images(const Call& call, int64_t from, int64_t to, Arena* arena) {
  const Plan* plan = call.plan;
  for (int64_t i = from; i < to; i += plan->group) {
    int G = (int)(to - i < plan->group ? to - i : plan->group);
    float* const* at = call.places(i, G, arena);
    call.copy_in(i, G, at);
    for (int k = 0; k < plan->ops; k++) {
      const Op& op = plan->op[k];
      kKinds[op.kind].run(plan, op, at, G, {arena, 0, 1});
    }
    call.copy_out(i, G, at);
  }
}

// Arenas wait here between calls: one per call in progress, so calls from several threads do not share any.
struct Waiting {
  std::mutex lock;
  std::vector<std::unique_ptr<Arena>> arenas;
};

// The one T of this process, never destroyed: workers may outlive main's statics. A forked process has the memory of T but none of
// its threads, and another thread may have held its locks: it gets a new one.
template <class T>
T& of_process() {
  static T* made = [] {
#ifndef _WIN32
    pthread_atfork(nullptr, nullptr, [] { made = std::make_unique<T>().release(); });
#endif
    return std::make_unique<T>().release();
  }();
  return *made;
}

Waiting& waiting() { return of_process<Waiting>(); }

// An arena for as long as a thread needs one. Throws std::bad_alloc.
class Borrowed {
 public:
  Borrowed() {
    Waiting& all = waiting();
    std::lock_guard<std::mutex> hold(all.lock);
    if (all.arenas.empty()) {
      arena = std::make_unique<Arena>();
      return;
    }
    arena = std::move(all.arenas.back());
    all.arenas.pop_back();
  }
  ~Borrowed() {
    if (!arena) return;
    Waiting& all = waiting();
    std::lock_guard<std::mutex> hold(all.lock);
    try {
      all.arenas.push_back(std::move(arena));
    } catch (const std::bad_alloc&) {  // no room in the list: this arena is freed
    }
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

  Arena* get() const { return arena.get(); }
  void free_it() { arena.reset(); }  // where memory is short

 private:
  std::unique_ptr<Arena> arena;
};

// Returns 0, or 1 when out of memory.
int guarded(const Call& call, int64_t from, int64_t to) {
  try {
    Borrowed arena;
    try {
      run_images(call, from, to, arena.get());
    } catch (...) {
      arena.free_it();
      throw;
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// A pool of sleeping workers; the caller works too.
struct Pool {
  std::mutex lock, turn;
  std::condition_variable wake, done;
  std::vector<std::thread> workers;
  void (*job)(void*, int) = nullptr;
  void* what = nullptr;
  int wanted = 0, next = 0, running = 0;
  long generation = 0;
  bool stop = false;

  void loop() {
    long seen = 0;
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
      wake.wait(hold, [&] { return stop || (generation != seen && next < wanted); });
      if (stop) return;
      seen = generation;
      work(hold);
    }
  }
  // Does parts of the job until none is left. hold: of `lock`.
  void work(std::unique_lock<std::mutex>& hold) {
    while (next < wanted) {
      int i = next++;
      running++;
      hold.unlock();
      job(what, i);
      hold.lock();
      running--;
    }
    if (running == 0) done.notify_all();
  }
  // Starts threads until n run, the caller counted. False where the system gives no more: a Team would wait for them forever.
  bool grow(int n) {
    std::lock_guard<std::mutex> hold(lock);
    try {
      while ((int)workers.size() < n - 1) workers.emplace_back([this] { loop(); });
    } catch (const std::exception&) {  // system_error, bad_alloc
      return false;
    }
    return true;
  }
  void run(int n, void (*f)(void*, int), void* arg) {  // after grow(n)
    std::lock_guard<std::mutex> one(turn);
    std::unique_lock<std::mutex> hold(lock);
    job = f;
    what = arg;
    wanted = n;
    next = 0;
    generation++;
    wake.notify_all();
    work(hold);
    done.wait(hold, [&] { return running == 0; });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> hold(lock);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& t : workers) t.join();
  }
};

Pool& pool_of() { return of_process<Pool>(); }

struct Share { const Call& call; int64_t n; int parts; std::atomic<int> failed; };

void part(void* arg, int i) {
  Share* s = (Share*)arg;
  if (guarded(s->call, s->n * i / s->parts, s->n * (i + 1) / s->parts)) s->failed = 1;
}

}  // namespace

namespace {

// Fewer images than threads: every thread takes its rows of each convolution (its share of sums of channels), and waits for the others before the next step.
struct Team {
  const Plan* plan;
  float* const* at;
  int parts;
  std::atomic<int> waiting{0}, turn{0}, failed{0};

  Team(const Plan* plan, float* const* at, int parts) : plan(plan), at(at), parts(parts) {}

  void wait() {  // steps last microseconds, so look for a while before giving the processor away
    int now = turn.load();
    if (waiting.fetch_add(1) + 1 == parts) {
      waiting.store(0);
      turn.fetch_add(1);
      return;
    }
    for (long looks = 0; turn.load(std::memory_order_acquire) == now; looks++)
      if (looks > 20000) std::this_thread::yield();
  }
};

// One op by thread i, in an arena of its own.
void team_op(Team* t, const Op& op, Arena* arena, int i) {
  const OpKind& kind = kKinds[op.kind];
  if (kind.divided) kind.run(t->plan, op, t->at, 1, {arena, i, t->parts});
  else if (i == 0) kind.run(t->plan, op, t->at, 1, {arena, 0, 1});
}

void team_part(void* arg, int i) {
  Team* t = (Team*)arg;
  std::optional<Borrowed> arena;
  try {
    arena.emplace();
  } catch (const std::bad_alloc&) {
    t->failed = 1;
  }
  for (int k = 0; k < t->plan->ops; k++) {
    try {
      if (arena) team_op(t, t->plan->op[k], arena->get(), i);
    } catch (const std::bad_alloc&) {
      t->failed = 1;  // the others still count on this thread at every step
    }
    t->wait();
  }
}

int run_team(const Call& call, int64_t n, int threads) {
  int failed = 0;
  try {
    Borrowed own;
    for (int64_t i = 0; i < n && !failed; i++) {
      float* const* at = call.places(i, 1, own.get());
      call.copy_in(i, 1, at);
      Team team(call.plan, at, threads);
      pool_of().run(threads, team_part, &team);
      failed = team.failed;
      call.copy_out(i, 1, at);
    }
  } catch (const std::bad_alloc&) {
    failed = 1;
  }
  return failed;
}

}  // namespace

// n images; in and out hold one pointer per input and output. Returns 0, or 1 when out of memory.
API int tbn_run(const Plan* plan, const float* const* in, float* const* out, int64_t n, int threads) {
  Call call(plan, in, out, n);
  if (threads <= 1 || n < 1 || !pool_of().grow(threads)) return guarded(call, 0, n);
  if (n < threads) return run_team(call, n, threads);
  Share s{call, n, threads, {0}};
  pool_of().run(s.parts, part, &s);
  return s.failed;
}

API int64_t tbn_peak(int level, int kind, int64_t n) { return kLevels[level]->peak(kind, n); }

// Reads an array `times` times and returns the sum, which keeps the reading honest.
API double tbn_read(const double* x, int64_t n, int64_t times) {
  double s[32] = {};
  for (int64_t t = 0; t < times; t++)
    for (int64_t i = 0; i + 32 <= n; i += 32)
      for (int j = 0; j < 32; j++) s[j] += x[i + j];
  double sum = 0;
  for (double v : s) sum += v;
  return sum;
}

#include "training.inc"
#include "training_groups.inc"

// The kinds of ops by number, in which an Op names its kind.
API int tbn_op_kinds() { return (int)(sizeof kKinds / sizeof *kKinds); }
API const char* tbn_op_name(int i) { return kKinds[i].name; }

API long tbn_sizeof_op() { return sizeof(Op); }
API long tbn_sizeof_value() { return sizeof(Value); }
API long tbn_sizeof_plan() { return sizeof(Plan); }
