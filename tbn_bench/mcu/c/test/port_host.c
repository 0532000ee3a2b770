/* A computer with an operating system. Arguments: none, or INPUTS OUTPUTS (two files of raw values). */
#include <stdio.h>
#include <stdlib.h>

#include "port.h"

static FILE *inputs, *outputs;
static uint8_t room[1 << 20];

static FILE *opened(const char *path, const char *mode)
{
    FILE *file = fopen(path, mode);
    if (!file) {
        perror(path);
        exit(2);
    }
    return file;
}

void port_open(int argc, char **argv)
{
    if (argc == 3) {
        inputs = opened(argv[1], "rb");
        outputs = opened(argv[2], "wb");
    } else if (argc != 1) {
        fprintf(stderr, "expected no arguments or INPUTS OUTPUTS, got %d\n", argc - 1);
        exit(2);
    }
}

void port_put(char c)
{
    putchar(c);
}

void port_exit(int status)
{
    if (outputs && fclose(outputs)) status = 2;
    exit(status);
}

uint8_t port_files(void)
{
    return inputs != NULL;
}

uint8_t *port_room(uint32_t *bytes)
{
    *bytes = sizeof room;
    return room;
}

uint32_t port_read(void *to, uint32_t bytes)
{
    return (uint32_t)fread(to, 1, bytes, inputs);
}

uint8_t port_write(const void *from, uint32_t bytes)
{
    return fwrite(from, 1, bytes, outputs) == bytes;
}
