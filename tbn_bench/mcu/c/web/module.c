/* An exported network as a WebAssembly module: one context, whose arena lies in the module's memory. The build defines NET(call),
 * NET_WORD and NET_ARENA, and includes the header of the network. */
#define EXPORT(name) __attribute__((export_name(name)))

static NET_WORD arena[NET_ARENA / 4u];
static tbn_ctx ctx;

EXPORT("init") uint32_t web_init(void);
EXPORT("input") void *web_input(void);
EXPORT("run") uint32_t web_run(void);
EXPORT("output") const void *web_output(void);
EXPORT("selftest") uint32_t web_selftest(void);

uint32_t web_init(void)
{
    return (uint32_t)NET(init)(&ctx, arena, sizeof arena);
}

void *web_input(void)
{
    return NET(input)(&ctx);
}

uint32_t web_run(void)
{
    return (uint32_t)NET(run)(&ctx);
}

const void *web_output(void)
{
    return NET(output)(&ctx);
}

uint32_t web_selftest(void)
{
    return (uint32_t)NET(selftest)(&ctx);
}
