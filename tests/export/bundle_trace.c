/* Steps a bundle over events from standard input, one image after the other, and writes after each
 * step every state, the flow head's accumulator and the flow to standard output, as they lie in
 * memory on a little-endian machine. */
#include <stdio.h>

#include "net.h"

#define PIXELS (NET_HEIGHT * NET_WIDTH)

static uint8_t events[NET_BINS * PIXELS];
static net_flow flow[2 * PIXELS];
static int32_t sums[2 * PIXELS];

static void write_state(const net_state *state)
{
    const size_t bytes = (size_t)state->element_bytes;
    const uint8_t *row = (const uint8_t *)state->data;
    int32_t r;
    for (r = 0; r < state->rows; ++r, row += (size_t)state->stride * bytes) {
        fwrite(row, bytes, (size_t)state->elements, stdout);
    }
}

int main(void)
{
    int32_t i;
    net_reset();
    while (fread(events, 1, sizeof events, stdin) == sizeof events) {
        net_step(events, flow, sums);
        for (i = 0; i < NET_STATE_COUNT; ++i) {
            write_state(&net_states[i]);
        }
        fwrite(sums, 1, sizeof sums, stdout);
        fwrite(flow, 1, sizeof flow, stdout);
    }
    return 0;
}
