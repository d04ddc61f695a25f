// SPDX-License-Identifier: MIT
#include "parallel.h"

#include <algorithm>
#include <atomic>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace nnsym {
namespace {

std::atomic<int> requested{0};
std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

bool forked_process() {
    return forked;
}

bool threads_available() {
#if defined(_OPENMP)
    return true;
#else
    return false;
#endif
}

int thread_count() {
#if defined(_OPENMP)
    if (forked) return 1;
    const int n = requested;
    return n > 0 ? n : omp_get_max_threads();
#else
    return 1;
#endif
}

void set_thread_count(int n) {
    requested = n;
}

void parallel_for(std::int64_t tasks, int threads, void (*body)(void*, std::int64_t, int), void* context) {
    threads = int(std::min<std::int64_t>(threads, tasks));
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (std::int64_t task = 0; task < tasks; ++task) body(context, task, omp_get_thread_num());
        return;
    }
#endif
    for (std::int64_t task = 0; task < tasks; ++task) body(context, task, 0);
}

}  // namespace nnsym
