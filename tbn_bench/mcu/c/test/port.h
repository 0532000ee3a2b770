/* What the test program asks of a machine. One of port_host.c, port_bare.c (Cortex-M and RISC-V) and port_avr.c answers. */
#ifndef PORT_H
#define PORT_H

#include <stdint.h>

#if defined(__AVR__)
#include <avr/io.h>
#define PORT_FILES 0
#define PORT_COUNTS 1
#elif (defined(__arm__) || defined(__riscv)) && !defined(__linux__)
#define PORT_FILES 1
#define PORT_COUNTS 1
#else
#define PORT_FILES 1
#define PORT_COUNTS 0 /* a host has neither a quiet timer nor a stack of its own for this program */
#endif

void port_open(int argc, char **argv); /* before anything else */
void port_put(char c);                 /* one character of a line of text */
void port_exit(int status);            /* ends the program and the simulation; never returns */

#if PORT_COUNTS
/* Time between start and stop in ticks. `second` chooses the second of two ways to count: the same clock again on Cortex-M
   and RISC-V, which must give the same number; a clock 1024 times slower on AVR, since the quick one counts only to 65535. UINT32_MAX: it went on for
   too long. */
void port_start(uint8_t second);
uint32_t port_stop(void);
uint32_t port_loop(void); /* does work of exactly known length; returns the length in instructions (on AVR in cycles) */

#define PORT_STACK_SPENT UINT32_MAX
void port_paint(void);              /* fills the free stack with a pattern */
uint32_t port_painted(uintptr_t top); /* bytes from the deepest overwritten one to `top`, 32 at least, or PORT_STACK_SPENT */

static inline uintptr_t port_stack_pointer(void)
{
#if defined(__AVR__)
    return SP;
#else
    uintptr_t sp;
#if defined(__riscv)
    __asm__ volatile("mv %0, sp" : "=r"(sp));
#else
    __asm__ volatile("mov %0, sp" : "=r"(sp));
#endif
    return sp;
#endif
}
#endif

#if PORT_FILES
uint8_t port_files(void);                             /* 1: raw inputs are given; run them instead of the vectors */
uint8_t *port_room(uint32_t *bytes);                  /* memory for inputs and outputs, as much as there is */
uint32_t port_read(void *to, uint32_t bytes);         /* bytes read: fewer than asked for at the end of the file only */
uint8_t port_write(const void *from, uint32_t bytes); /* 1: all of them were written */
#endif

#endif
