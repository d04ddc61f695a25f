// SPDX-License-Identifier: MIT
#include "dense_draw.cuh"

namespace nnsym::cuda::haar {

void draw_float(const Draw& draw, void* workspace, Stream stream) {
    draw_all<float>(draw, workspace, stream);
}

}  // namespace nnsym::cuda::haar
