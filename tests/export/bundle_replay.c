/* Replays tests/runtime/vectors with a bundle of their model and compares the hash of every state
 * and of the flow's accumulator after every step with those stored there.
 *
 *   bundle_replay events.bin expected.txt
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "net.h"

#define PIXELS (NET_HEIGHT * NET_WIDTH)

static uint8_t events[NET_BINS * PIXELS];
static net_flow flow[2 * PIXELS];
static int32_t sums[2 * PIXELS];

/* FNV-1a of 64 bits, byte by byte. */
static uint64_t hash_byte(uint64_t hash, uint8_t byte)
{
    return (hash ^ byte) * UINT64_C(1099511628211);
}

/* Spikes of few channels lie in narrower words here than the artifact's 32 bits. */
static uint64_t hash_state(const net_state *state)
{
    const int spikes = strncmp(state->name, "spike.", 6) == 0;
    const int width = (int)state->element_bytes;
    uint64_t hash = UINT64_C(14695981039346656037);
    int32_t r;
    for (r = 0; r < state->rows; ++r) {
        const size_t place = (size_t)r * (size_t)state->stride * (size_t)width;
        const uint8_t *row = (const uint8_t *)state->data + place;
        int32_t e;
        for (e = 0; e < state->elements; ++e) {
            int b;
            for (b = 0; b < (spikes ? 4 : width); ++b) {
                hash = hash_byte(hash, b < width ? row[e * width + b] : 0);
            }
        }
    }
    return hash;
}

static int expect(FILE *expected, int step, const char *name, uint64_t hash)
{
    char line[128];
    char ours[128];
    snprintf(ours, sizeof ours, "%d %s %016" PRIx64 "\n", step, name, hash);
    if (fgets(line, sizeof line, expected) != NULL && strcmp(line, ours) == 0) {
        return 1;
    }
    fprintf(stderr, "got %s", ours);
    return 0;
}

static int replay(FILE *given, FILE *expected)
{
    int32_t head[4];
    int32_t step;
    if (fread(head, sizeof *head, 4, given) != 4 || head[1] != NET_BINS || head[2] != NET_HEIGHT ||
        head[3] != NET_WIDTH) {
        return 0;
    }
    net_reset();
    for (step = 0; step < head[0]; ++step) {
        const uint8_t *bytes = (const uint8_t *)sums;
        uint64_t hash = UINT64_C(14695981039346656037);
        size_t i;
        if (fread(events, 1, sizeof events, given) != sizeof events) {
            return 0;
        }
        net_step(events, flow, sums);
        for (i = 0; i < NET_STATE_COUNT; ++i) {
            if (!expect(expected, (int)step, net_states[i].name, hash_state(&net_states[i]))) {
                return 0;
            }
        }
        for (i = 0; i < sizeof sums; ++i) {
            hash = hash_byte(hash, bytes[i]);
        }
        if (!expect(expected, (int)step, "flow_acc", hash)) {
            return 0;
        }
    }
    return fgetc(expected) == EOF;
}

int main(int count, char **arguments)
{
    FILE *given = count == 3 ? fopen(arguments[1], "rb") : NULL;
    FILE *expected = count == 3 ? fopen(arguments[2], "r") : NULL;
    return given != NULL && expected != NULL && replay(given, expected) ? 0 : 1;
}
