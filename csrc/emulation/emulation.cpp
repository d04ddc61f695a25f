// SPDX-License-Identifier: MIT
#include "cuda_runtime.h"

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, bytes) (void)0
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) (void)0
#endif

namespace emulation {

Thread* current = nullptr;
uint3 block_index{};
dim3 block_size, grid_size;

namespace {

constexpr std::size_t kStack = 256 << 10;
constexpr std::size_t kSharedLimit = 227 << 10;
constexpr std::size_t kGuard = 4096;  // bytes past a block's shared memory that must stay as they are

enum class State { kFresh, kRunning, kWaiting, kDone };

struct Copy {
    void* to;
    const void* from;
    int bytes;
};

struct Fiber {
    Thread thread{};
    State state = State::kFresh;
    jmp_buf place;
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    std::deque<std::vector<Copy>> groups;  // committed; of the oldest first
    std::vector<Copy> open;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
#endif
};

struct Meeting {
    unsigned mask, arrived;
    std::uint64_t passed;
};

struct Warp {
    std::vector<Meeting> meetings;  // one of each mask
    std::uint64_t slot[32];
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
jmp_buf scheduler;
Fiber* running = nullptr;
const std::function<void()>* body = nullptr;
std::size_t alive, at_barrier;
std::uint64_t barriers, progress, order;
int votes, results[3];
std::string error;
std::mutex mutex;
alignas(16) unsigned char shared[kSharedLimit + kGuard];
bool failed;
#if defined(__SANITIZE_ADDRESS__)
void* scheduler_fake = nullptr;
const void* scheduler_stack = nullptr;
std::size_t scheduler_size = 0;
#endif

void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
    (*body)();
    running->state = State::kDone;
    --alive;
    ++progress;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_size);
#endif
    _longjmp(scheduler, 1);
}

// From the fiber to the scheduler, and back when it is its turn.
__attribute__((noinline)) void yield() {
    Fiber* self = running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&self->fake, scheduler_stack, scheduler_size);
#endif
    if (!_setjmp(self->place)) _longjmp(scheduler, 1);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->fake, &scheduler_stack, &scheduler_size);
#endif
}

// The launch fails; the fiber's turn never comes again.
[[noreturn]] void fail(std::string message) {
    error = std::move(message);
    failed = true;
    while (true) yield();
}

__attribute__((noinline)) void resume(Fiber* fiber) {
    running = fiber;
    current = &fiber->thread;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake, fiber->stack.get(), kStack);
#endif
    if (!_setjmp(scheduler)) {
        if (fiber->state == State::kFresh) {
            fiber->state = State::kRunning;
            setcontext(&fiber->context);
        }
        _longjmp(fiber->place, 1);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
}

void prepare(Fiber& fiber, unsigned number) {
    fiber.thread.index = {number % block_size.x, number / block_size.x % block_size.y,
                          number / block_size.x / block_size.y};
    fiber.thread.lane = number % 32, fiber.thread.warp = number / 32;
    fiber.state = State::kFresh;
    fiber.groups.clear(), fiber.open.clear();
    if (!fiber.stack) fiber.stack = std::make_unique<unsigned char[]>(kStack);
    ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), kStack);  // frames that a failed launch left
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
}

std::string place() {
    return "block (" + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
           std::to_string(block_index.z) + ")";
}

bool run_block(unsigned threads, std::size_t bytes) {
    while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
    warps.assign((threads + 31) / 32, Warp{});
    for (unsigned i = 0; i < threads; ++i) prepare(*fibers[i], i);
    std::fill_n(shared, bytes + kGuard, std::uint8_t(0xff));
    ASAN_POISON_MEMORY_REGION(shared + bytes, sizeof(shared) - bytes);
    alive = threads, at_barrier = 0, votes = 0, failed = false;
    std::vector<unsigned> turn(threads);
    for (unsigned i = 0; i < threads; ++i) turn[i] = order == 1 ? threads - 1 - i : i;
    std::mt19937_64 random(order);
    while (alive && !failed) {
        const std::uint64_t before = progress;
        if (order > 1) std::shuffle(turn.begin(), turn.end(), random);
        for (unsigned i : turn)
            if (fibers[i]->state != State::kDone && !failed) resume(fibers[i].get());
        if (alive && progress == before && !failed) {
            failed = true;
            error = std::to_string(alive) + " threads of " + place() + " wait at a barrier (" +
                    std::to_string(at_barrier) + " of them for the block) that not all threads reach";
        }
    }
    ASAN_UNPOISON_MEMORY_REGION(shared, sizeof(shared));
    if (!failed && std::any_of(shared + bytes, shared + bytes + kGuard, [](unsigned char c) { return c != 0xff; })) {
        failed = true;
        error = place() + " wrote past its " + std::to_string(bytes) + " bytes of dynamic shared memory";
    }
    return !failed;
}

}  // namespace

void set_order(std::uint64_t value) {
    order = value;
}

const char* last_error() {
    return error.c_str();
}

unsigned char* shared_memory() {
    return shared;
}

cudaError_t launch(dim3 grid, dim3 block, std::size_t bytes, const std::function<void()>& kernel) {
    const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
    if (!threads || threads > 1024 || bytes > kSharedLimit || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu)
        return cudaErrorInvalidConfiguration;
    const std::lock_guard<std::mutex> lock(mutex);
    block_size = block, grid_size = grid;
    body = &kernel;
    const std::uint64_t blocks = std::uint64_t(grid.x) * grid.y * grid.z;
    for (std::uint64_t k = 0; k < blocks; ++k) {
        const std::uint64_t b = order == 1 ? blocks - 1 - k : k;
        block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
        if (!run_block(unsigned(threads), bytes)) return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

void block_barrier() {
    ++progress;
    const std::uint64_t mine = barriers;
    ++at_barrier;
    // Threads that have ended are not waited for, as on a GPU.
    while (barriers == mine) {
        if (at_barrier == alive) {
            at_barrier = 0, votes = 0;
            ++barriers, ++progress;
            break;
        }
        yield();
    }
}

void warp_barrier(unsigned mask) {
    auto& meetings = warps[current->warp].meetings;
    const unsigned lane = current->lane;
    if (!(mask >> lane & 1))
        fail("lane " + std::to_string(lane) + " of a warp of " + place() + " is not in the mask that it waits for");
    std::size_t at = 0;
    while (at < meetings.size() && meetings[at].mask != mask) ++at;
    if (at == meetings.size()) meetings.push_back({mask, 0, 0});
    const std::uint64_t mine = meetings[at].passed;
    meetings[at].arrived |= 1u << lane;
    ++progress;
    while (meetings[at].passed == mine) {
        if (meetings[at].arrived == mask) {
            meetings[at].arrived = 0;
            ++meetings[at].passed, ++progress;
            break;
        }
        yield();
    }
}

std::uint64_t& slot(unsigned lane) {
    return warps[current->warp].slot[lane];
}

void copy_async(void* to, const void* from, int bytes) {
    if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % unsigned(bytes))
        fail("an asynchronous copy of " + place() + " is not aligned to its " + std::to_string(bytes) + " bytes");
    running->open.push_back({to, from, bytes});
}
void copy_commit() {
    running->groups.push_back(std::move(running->open));
    running->open.clear();
}
void copy_wait(int pending) {
    auto& groups = running->groups;
    for (; int(groups.size()) > pending; groups.pop_front())
        for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, std::size_t(copy.bytes));
}

}  // namespace emulation

namespace {

int vote(int predicate, int which) {
    emulation::block_barrier();  // nobody still reads the last vote
    emulation::votes += predicate != 0;
    emulation::results[0] = emulation::votes;
    const int threads = int(emulation::alive);
    const int* result = emulation::results;
    // The barrier clears the votes; the count was left beside them.
    emulation::block_barrier();
    return which == 0 ? result[0] != 0 : which == 1 ? result[0] == threads : result[0];
}

}  // namespace

int __syncthreads_or(int predicate) {
    return vote(predicate, 0);
}
int __syncthreads_and(int predicate) {
    return vote(predicate, 1);
}
int __syncthreads_count(int predicate) {
    return vote(predicate, 2);
}
