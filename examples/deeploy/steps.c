/* Drives a network that Deeploy compiled: reads one window of events after the other from standard
 * input, writes every output of every step to standard output, and feeds states back. */
#include <stdio.h>

#include "Network.h"
#include "pairs.h"

int main(void)
{
    uint32_t i;
    InitNetwork(0, 1);
    for (i = 0; i < DeeployNetwork_num_inputs; ++i) {
        memset(DeeployNetwork_inputs[i], 0, DeeployNetwork_inputs_bytes[i]);
    }
    while (fread(DeeployNetwork_inputs[0], 1, DeeployNetwork_inputs_bytes[0], stdin) ==
           DeeployNetwork_inputs_bytes[0]) {
        RunNetwork(0, 1);
        for (i = 0; i < DeeployNetwork_num_outputs; ++i) {
            fwrite(DeeployNetwork_outputs[i], 1, DeeployNetwork_outputs_bytes[i], stdout);
        }
        for (i = 0; i < STATES; ++i) {
            memcpy(DeeployNetwork_inputs[state_pairs[i][1]],
                   DeeployNetwork_outputs[state_pairs[i][0]],
                   DeeployNetwork_outputs_bytes[state_pairs[i][0]]);
        }
    }
    return 0;
}
