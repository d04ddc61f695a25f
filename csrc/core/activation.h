// SPDX-License-Identifier: MIT
// The activations of vector fields, in the order of ACTIVATIONS in nnsym_fast/_ode.py.
#pragma once

namespace nnsym {
namespace ode {

enum Activation : int {
    kIdentity,
    kRelu,
    kLeakyRelu,
    kTanh,
    kSigmoid,
    kSoftplus,
    kSilu,
    kGelu,
    kGeluTanh,
    kElu,
    kSin,
};
constexpr int kActivations = kSin + 1;

}  // namespace ode
}  // namespace nnsym
