/* Runs an exported model and prints what it did as lines "key value ...", for people and for tbn_bench/mcu/simulate.py.

   With raw inputs (port_files) it runs them all and writes raw outputs. Without, it runs the vectors of vectors.h, compares each
   output with the expected one, and measures stack and time. Nothing here needs libc, printf, malloc or a division. */
#include "model.h"
#include "port.h"
#include "vectors.h"

#ifdef TEST_LAYERS /* the time of each operation instead: its tables are static, so the model's source is part of this file */
#include MODEL_SOURCE
#endif

#define GUARD 0xA5u
#define GUARDS 8u

typedef union {
    MODEL_OUTPUT_T value;
    uint32_t bits;
} word;

static union {
    uint8_t bytes[MODEL_ARENA_BYTES + GUARDS]; /* the guards lie behind the arena; a write past its end is found */
    uint64_t align;
} arena;
static tbn_ctx ctx;

/* Text stays in flash on AVR, whose RAM would not hold it otherwise. */
#define SAY(text)                             \
    do {                                      \
        static const TBN_ROM char s[] = text; \
        say(s);                               \
    } while (0)

static void say(const TBN_ROM char *s)
{
    while (*s) port_put(*s++);
}

static void put_unsigned(uint32_t v)
{
    static const TBN_ROM uint32_t tens[] = {1000000000, 100000000, 10000000, 1000000, 100000, 10000, 1000, 100, 10, 1};
    uint8_t started = 0;
    for (uint8_t i = 0; i < 10; i++) {
        uint32_t ten = tens[i];
        char digit = '0';
        for (; v >= ten; v -= ten) digit++;
        started |= digit != '0' || i == 9;
        if (started) port_put(digit);
    }
}

static void say_unsigned(uint32_t v)
{
    port_put(' ');
    put_unsigned(v);
}

/* An output: an int32 in decimal, or the bits of a float in hexadecimal. */
static void say_word(uint32_t bits)
{
    port_put(' ');
#if MODEL_F32
    for (int8_t shift = 28; shift >= 0; shift = (int8_t)(shift - 4)) {
        uint8_t digit = (uint8_t)(bits >> shift) & 15;
        port_put((char)(digit < 10 ? '0' + digit : 'a' + digit - 10));
    }
#else
    if (bits >> 31) port_put('-');
    put_unsigned(bits >> 31 ? 0u - bits : bits);
#endif
}

static uint8_t say_status(tbn_status status)
{
    say_unsigned((uint32_t)status);
    port_put('\n');
    return status != TBN_OK;
}

static uint8_t arena_is_whole(void)
{
    for (uint8_t i = 0; i < GUARDS; i++)
        if (arena.bytes[MODEL_ARENA_BYTES + i] != GUARD) return 0;
    return 1;
}

static uint32_t output_word(uint16_t i)
{
    word w;
    w.value = MODEL(output)(&ctx)[i];
    return w.bits;
}

#if PORT_FILES
static void copy(void *to, const void *from, uint32_t bytes)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    while (bytes--) *t++ = *f++;
}

/* room / size without the compiler's division, which would be counted as the library's where the processor has none. */
static uint32_t times(uint32_t room, uint32_t size)
{
    uint32_t n = 0;
    for (; room >= size; room -= size) {
        n++;
        __asm__ volatile("" ::: "memory"); /* or the loop becomes a division again */
    }
    return n;
}

/* Every image of the file. The room is filled with inputs, their outputs go behind them. */
static uint8_t run_files(void)
{
    const uint32_t in = MODEL_INPUT_LEN * sizeof(MODEL_INPUT_T), out = MODEL_OUTPUT_LEN * sizeof(MODEL_OUTPUT_T);
    uint32_t room, n, total = 0;
    uint8_t *inputs = port_room(&room), failed = 0;
    const uint32_t most = times(room, in + out);
    uint8_t *outputs = inputs + most * in;
    if (!most) {
        SAY("error no_room_for_an_image\n");
        return 1;
    }
    do {
        n = times(port_read(inputs, most * in), in);
        for (uint32_t i = 0; i < n; i++) {
            copy(MODEL(input)(&ctx), inputs + i * in, in);
            failed |= MODEL(run)(&ctx) != TBN_OK;
            copy(outputs + i * out, MODEL(output)(&ctx), out);
        }
        failed |= !port_write(outputs, n * out);
        total += n;
    } while (n == most);
    SAY("images");
    say_unsigned(total);
    port_put('\n');
    return failed;
}
#endif

static void load(uint16_t vector)
{
    MODEL_INPUT_T *x = MODEL(input)(&ctx);
    for (uint16_t j = 0; j < MODEL_INPUT_LEN; j++) x[j] = vectors[vector][j];
}

static void say_outputs(uint16_t vector)
{
    SAY("output");
    say_unsigned(vector);
    for (uint16_t j = 0; j < MODEL_OUTPUT_LEN; j++) say_word(output_word(j));
    SAY("\nargmax");
    say_unsigned(vector);
    say_unsigned(MODEL(argmax)(&ctx));
    port_put('\n');
}

static uint8_t differs(uint16_t vector)
{
    uint8_t wrong = 0;
    for (uint16_t j = 0; j < MODEL_OUTPUT_LEN; j++) wrong |= output_word(j) != (uint32_t)expected[vector][j];
    return wrong;
}

#if PORT_COUNTS
/* Stack of one run, its return address included. */
static __attribute__((noinline)) uint32_t run_painted(uint8_t *failed)
{
    uintptr_t top = port_stack_pointer();
    port_paint();
    *failed |= MODEL(run)(&ctx) != TBN_OK;
    return port_painted(top);
}

static uint32_t time_nothing(uint8_t second)
{
    port_start(second);
    return port_stop();
}

static uint32_t time_run(uint16_t vector, uint8_t second)
{
    load(vector);
    port_start(second);
    MODEL(run)(&ctx);
    return port_stop();
}

static void say_two(uint32_t first, uint32_t second)
{
    say_unsigned(first);
    say_unsigned(second);
    port_put('\n');
}

/* Ticks of nothing and of work of known length: what the reader needs to make instructions or cycles of ticks. */
static void calibrate(void)
{
    uint32_t ticks[2], length = 0;
    SAY("empty");
    say_two(time_nothing(0), time_nothing(1));
    for (uint8_t second = 0; second < 2; second++) {
        port_start(second);
        length = port_loop();
        ticks[second] = port_stop();
    }
    SAY("calibration");
    say_unsigned(length);
    say_two(ticks[0], ticks[1]);
}
#endif

#if defined(TEST_LAYERS) && PORT_COUNTS
static __attribute__((noinline)) uint32_t time_layer(uint16_t i, uint8_t second)
{
    port_start(second);
    MODEL_OPS[i].run(&ctx, &MODEL_OPS[i]);
    return port_stop();
}

/* The first vector, operation by operation; twice each, since none overwrites what it reads. */
static uint8_t run_vectors(void)
{
    calibrate();
    load(0);
    for (uint16_t i = 0; i < sizeof MODEL_OPS / sizeof MODEL_OPS[0]; i++) {
        uint32_t first = time_layer(i, 0);
        SAY("ticks");
        say_unsigned(i);
        say_two(first, time_layer(i, 1));
    }
    say_outputs(0);
    SAY("mismatch");
    say_unsigned(differs(0));
    port_put('\n');
    return differs(0);
}
#else
static uint8_t run_vectors(void)
{
    uint16_t mismatches = 0;
    uint8_t failed = 0;
#if PORT_COUNTS
    uint32_t stack = 0;
    calibrate();
#endif
    for (uint16_t i = 0; i < VECTORS; i++) {
        load(i);
#if PORT_COUNTS
        uint32_t used = run_painted(&failed);
        if (used > stack) stack = used;
#else
        failed |= MODEL(run)(&ctx) != TBN_OK;
#endif
        say_outputs(i);
        mismatches = (uint16_t)(mismatches + differs(i));
#if PORT_COUNTS
        SAY("ticks");
        say_unsigned(i);
        say_two(time_run(i, 0), time_run(i, 1));
#endif
    }
#if PORT_COUNTS
    if (stack == PORT_STACK_SPENT) {
        SAY("error stack_overflow\n");
        failed = 1;
    }
    SAY("stack");
    say_unsigned(stack);
    port_put('\n');
#endif
    SAY("mismatch");
    say_unsigned(mismatches);
    port_put('\n');
    return failed || mismatches;
}
#endif

int main(int argc, char **argv)
{
    uint8_t failed;
    port_open(argc, argv);
    for (uint8_t i = 0; i < GUARDS; i++) arena.bytes[MODEL_ARENA_BYTES + i] = GUARD;
    SAY("init");
    failed = say_status(MODEL(init)(&ctx, arena.bytes, MODEL_ARENA_BYTES));
    if (failed) port_exit(1); /* nothing may be called before init has succeeded */
#ifndef TEST_WITHOUT_SELFTEST /* to see what the library weighs without it */
    SAY("selftest");
    failed |= say_status(MODEL(selftest)(&ctx));
#endif
#if PORT_FILES
    if (port_files())
        failed |= run_files();
    else
#endif
        failed |= run_vectors();
    if (!arena_is_whole()) {
        SAY("error written_past_the_arena\n");
        failed = 1;
    }
    SAY("done 1\n");
    port_exit(failed);
    return 0;
}
