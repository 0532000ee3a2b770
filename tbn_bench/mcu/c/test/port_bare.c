/* A Cortex-M or RV32 without operating system or libc: start-up, semihosting (text, files, exit), time by SysTick or minstret.

   Semihosting: Arm's "Semihosting for AArch32 and AArch64", operation in r0, block of arguments in r1, BKPT 0xAB. On RISC-V, by its
   specification of the same name, operation in a0, block in a1, and EBREAK between two shifts that do nothing.
   Under `qemu -icount shift=6` an instruction takes 64 ns of the board's time, so that ticks are instructions times a constant. */
#include <stddef.h>

#include "port.h"

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5, APPLICATION_EXIT = 0x20026 };

#define PAINT 0xC5C5C5C5u

/* Of the linker script; only their addresses mean something. */
extern uint32_t ld_data_load[], ld_data[], ld_data_end[], ld_bss[], ld_bss_end[], ld_stack_limit[], ld_stack_top[];

int main(int argc, char **argv);
void reset(void);
void fault(void);

/* ---- what a compiler may call in a program without libc; the empty asm keeps each loop from becoming a call of itself ---- */

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

void *memcpy(void *to, const void *from, size_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((((uintptr_t)t | (uintptr_t)f) & 3) == 0) {
        for (; n >= 4; n -= 4, t += 4, f += 4) {
            *(uint32_t *)(void *)t = *(const uint32_t *)(const void *)f;
            __asm__ volatile("" ::: "memory");
        }
    }
    while (n--) {
        *t++ = *f++;
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

void *memset(void *to, int value, size_t n)
{
    uint8_t *t = to;
    while (n--) {
        *t++ = (uint8_t)value;
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

/* ---- semihosting ---- */

static uint32_t call(uint32_t operation, const void *argument)
{
#if defined(__riscv)
    register uint32_t a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(
        ".balign 16\n" /* the three words lie in one page */
        ".option push\n .option norvc\n"
        "slli x0, x0, 0x1f\n ebreak\n srai x0, x0, 7\n"
        ".option pop\n"
        : "+r"(a0)
        : "r"(a1)
        : "memory");
    return a0;
#else
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

static uint32_t line_length;
static char line[80];

static void flush(void)
{
    line[line_length] = 0;
    line_length = 0;
    call(SYS_WRITE0, line);
}

void port_put(char c)
{
    line[line_length++] = c;
    if (c == '\n' || line_length == sizeof line - 1) flush();
}

void port_exit(int status)
{
    uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)status};
    if (line_length) flush();
    for (;;) call(SYS_EXIT_EXTENDED, block);
}

/* ---- files in the working directory of the simulator ---- */

static uint32_t inputs, outputs;

static uint32_t opened(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t block[3] = {(uint32_t)(uintptr_t)name, mode, length};
    return call(SYS_OPEN, block);
}

uint8_t port_files(void)
{
    inputs = opened("inputs.bin", 10, READ_BINARY);
    if (inputs == UINT32_MAX) return 0;
    outputs = opened("outputs.bin", 11, WRITE_BINARY);
    return 1;
}

uint8_t *port_room(uint32_t *bytes)
{
    *bytes = (uint32_t)((uintptr_t)ld_stack_limit - (uintptr_t)ld_bss_end);
    return (uint8_t *)ld_bss_end;
}

uint32_t port_read(void *to, uint32_t bytes)
{
    const uint32_t block[3] = {inputs, (uint32_t)(uintptr_t)to, bytes};
    return bytes - call(SYS_READ, block); /* SYS_READ and SYS_WRITE answer with what they left undone */
}

uint8_t port_write(const void *from, uint32_t bytes)
{
    const uint32_t block[3] = {outputs, (uint32_t)(uintptr_t)from, bytes};
    return outputs != UINT32_MAX && call(SYS_WRITE, block) == 0;
}

/* ---- time ---- */

#if defined(__riscv)

#define READ_CSR(name, to) __asm__ volatile(".option push\n .option arch, +zicsr\n csrr %0, " name "\n .option pop\n" : "=r"(to))

/* The count of retired instructions, for which QEMU answers the board's time in nanoseconds: 64 are one instruction. */
static uint64_t retired(void)
{
    uint32_t low, high, again;
    READ_CSR("minstreth", high);
    do {
        again = high;
        READ_CSR("minstret", low);
        READ_CSR("minstreth", high);
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

static uint64_t started;

void port_start(uint8_t second)
{
    (void)second;
    started = retired();
}

uint32_t port_stop(void)
{
    return (uint32_t)((retired() - started) >> 6);
}

uint32_t port_loop(void)
{
    uint32_t n = 50000;
    __asm__ volatile(
        "1: addi %0, %0, -1\n"
        "   bnez %0, 1b\n"
        : "+r"(n));
    return 2 * 50000;
}

#else

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define TICKS_OF_A_ROUND 0x1000000u /* SysTick has 24 bits */

void tick(void);

static volatile uint32_t rounds;

void tick(void) /* five instructions in ten million: not worth subtracting */
{
    rounds++;
}

void port_start(uint8_t second)
{
    (void)second;
    rounds = 0;
    SYST_CSR = 0;
    SYST_RVR = TICKS_OF_A_ROUND - 1;
    SYST_CVR = 0;
    SYST_CSR = 7; /* on, with interrupt, at the processor's clock */
}

uint32_t port_stop(void)
{
    uint32_t left = SYST_CVR;
    SYST_CSR = 0;
    return rounds * TICKS_OF_A_ROUND + (left ? TICKS_OF_A_ROUND - left : 0);
}

uint32_t port_loop(void)
{
    uint32_t n = 50000;
    __asm__ volatile(
        ".syntax unified\n"
        "1: subs %0, %0, #1\n"
        "   bne 1b\n"
        : "+l"(n)
        :
        : "cc");
    return 2 * 50000;
}

#endif

/* ---- stack ---- */

void port_paint(void)
{
    volatile uint32_t *p = ld_stack_limit;
    /* Less than a frame of this function stays out: the compiler may read sp before it has saved registers there. */
    volatile uint32_t *end = (volatile uint32_t *)(port_stack_pointer() - 32);
    while (p < end) *p++ = PAINT;
}

uint32_t port_painted(uintptr_t top)
{
    const uint32_t *p = ld_stack_limit;
    if (*p != PAINT) return PORT_STACK_SPENT;
    while ((uintptr_t)p < top && *p == PAINT) p++;
    return (uint32_t)(top - (uintptr_t)p);
}

/* ---- start-up ---- */

__attribute__((aligned(4))) void fault(void)
{
    static const char text[] = "error processor_fault\n";
    line_length = 0;
    for (const char *s = text; *s; s++) port_put(*s);
    port_exit(3);
}

void port_open(int argc, char **argv)
{
    (void)argc;
    (void)argv;
}

static __attribute__((noinline, noreturn)) void start(void)
{
    uint32_t *to = ld_data;
    for (const uint32_t *from = ld_data_load; to < ld_data_end;) *to++ = *from++;
    for (to = ld_bss; to < ld_bss_end;) *to++ = 0;
    main(0, NULL);
    for (;;) port_exit(2);
}

#if defined(__riscv)

/* First in the image, at the address where the board begins. A trap ends the program. */
__attribute__((naked, section(".vectors"), used)) void reset(void)
{
    __asm__ volatile(
        "la sp, ld_stack_top\n"
        "la t0, fault\n" /* aligned to 4 bytes, as mtvec asks */
        ".option push\n .option arch, +zicsr\n"
        "csrw mtvec, t0\n"
        ".option pop\n"
        "j %0\n"
        :
        : "i"(start));
}

#else

#define CPACR (*(volatile uint32_t *)0xE000ED88u)

__attribute__((section(".vectors"), used)) static void (*const table[16])(void) = {
    (void (*)(void))ld_stack_top, reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault,
    tick,
};

/* The floating-point unit and Helium are off after reset, and a compiler may use them in any loop: apart from all else. */
void reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= 0xFu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    start();
}

#endif
