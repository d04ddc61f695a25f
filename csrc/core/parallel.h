// SPDX-License-Identifier: MIT
// Threads: OpenMP where the compiler has it. The number follows OMP_NUM_THREADS and threadpoolctl unless it is set.
#pragma once
#include <cstdint>

namespace nnsym {

int thread_count();            // in use for the next call
void set_thread_count(int n);  // 0: follow OpenMP
bool threads_available();      // built with OpenMP
bool forked_process();         // a child of fork(): GNU OpenMP hangs there once the parent has used it, so one thread

// body(context, task, worker) for every task, in any order; workers are numbered from 0 to threads - 1.
void parallel_for(std::int64_t tasks, int threads, void (*body)(void*, std::int64_t, int), void* context);

template <class F>
void parallel_for(std::int64_t tasks, int threads, F& body) {
    parallel_for(
        tasks, threads, [](void* f, std::int64_t task, int worker) { (*static_cast<F*>(f))(task, worker); }, &body);
}

}  // namespace nnsym
