// SPDX-License-Identifier: MIT
#include "dense_draw.cuh"

namespace nnsym::cuda::haar {

void draw_double(const Draw& draw, void* workspace, Stream stream) {
    draw_all<double>(draw, workspace, stream);
}

}  // namespace nnsym::cuda::haar
