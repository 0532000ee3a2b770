/* ATmega328P (Arduino Uno): text by UART, time by Timer1, 2 KB of RAM. Ends by sleeping with interrupts off, which simavr takes as
   the end of the program and a board as the end of its work. */
#include <avr/io.h>
#include <avr/interrupt.h>
#include <avr/sleep.h>

#include "port.h"

#define PAINT 0xC5

extern uint8_t _end; /* of the linker: the first free byte of RAM */

void port_open(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    cli();
    UBRR0 = 8; /* 115200 baud at 16 MHz */
    UCSR0B = 1 << TXEN0;
    UCSR0C = 3 << UCSZ00;
}

void port_put(char c)
{
    while (!(UCSR0A & (1 << UDRE0))) {}
    UDR0 = (uint8_t)c;
}

void port_exit(int status)
{
    static const __flash char text[] = "exit ";
    for (const __flash char *s = text; *s; s++) port_put(*s);
    port_put((char)('0' + status)); /* there is no other way to say it */
    port_put('\n');
    while (!(UCSR0A & (1 << UDRE0))) {}
    cli();
    sleep_enable();
    for (;;) sleep_cpu();
}

#define QUICK 1 /* the processor's clock */
#define SLOW 5  /* the same divided by 1024 */

/* The quick clock is exact modulo 65536, the slow one within 1024 up to 67 million: together they are exact. */
void port_start(uint8_t second)
{
    TCCR1A = 0;
    TCCR1B = 0;
    TCNT1 = 0;
    TIFR1 = 1 << TOV1; /* cleared by writing a one */
    if (second)
        TCCR1B = SLOW;
    else
        TCCR1B = QUICK;
}

uint32_t port_stop(void)
{
    uint16_t count = TCNT1;
    uint8_t clock = TCCR1B;
    TCCR1B = 0;
    if (clock == SLOW && (TIFR1 & (1 << TOV1))) return UINT32_MAX; /* too long even for the slow clock */
    return count;
}

uint32_t port_loop(void)
{
    uint16_t n = 25000;
    __asm__ volatile(
        "1: sbiw %0, 1\n"
        "   brne 1b\n"
        : "+w"(n));
    return 4UL * 25000 - 1; /* sbiw 2 cycles, brne 2 where taken and 1 where not */
}

void port_paint(void)
{
    const uintptr_t end = port_stack_pointer() - 16; /* registers that this function saves stay out */
    for (uint8_t *p = &_end; (uintptr_t)p < end; p++) *(volatile uint8_t *)p = PAINT;
}

uint32_t port_painted(uintptr_t top)
{
    const uint8_t *p = &_end;
    if (*p != PAINT) return PORT_STACK_SPENT;
    while ((uintptr_t)p < top && *p == PAINT) p++;
    return top + 1 - (uintptr_t)p; /* SP points below the last byte in use */
}
