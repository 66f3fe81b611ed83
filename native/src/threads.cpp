#include "threads.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace cpm {
namespace {

constexpr long PAUSES = 10000;       // of a few dozen cycles each, before a waiting thread begins to yield its core
constexpr long PATIENCE = 20000;     // tries before an idle thread sleeps: about a millisecond, longer than between two steps

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void pin(int cpu) {
#if defined(__linux__)
    if (cpu < 0) return;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &allowed) || cpu-- > 0) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        pthread_setaffinity_np(pthread_self(), sizeof one, &one);
        return;
    }
#else
    (void)cpu;
#endif
}

}  // namespace

// Spins, then yields: a core may be another process's for a while. False after `times` tries; never, where that is negative.
template <class Ready>
bool Pool::spin(Ready ready, long times) const {
    for (long i = 0; !ready(); i++) {
        if (times >= 0 && i >= times) return false;
        if (i < pauses_) pause();
        else std::this_thread::yield();
    }
    return true;
}

Pool::Pool(int threads, int first_cpu)
    : size_(threads < 1 ? 1 : threads), pauses_(size_ > (int)std::thread::hardware_concurrency() ? 0 : PAUSES) {
    try {
        for (int n = 1; n < size_; n++) threads_.emplace_back([this, n, first_cpu] { work(n, first_cpu < 0 ? -1 : first_cpu + n); });
    } catch (...) {  // no more threads to be had
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ending_ = true;
        }
        wake_.notify_all();
        for (auto& t : threads_) t.join();
        throw;
    }
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
}

void Pool::run(void (*body)(void*, int), void* context) {
    if (size_ > 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        body_ = body;
        context_ = context;
        running_ = size_ - 1;
        round_++;
    }
    wake_.notify_all();
    body(context, 0);
    spin([this] { return running_ == 0; }, -1);
}

void Pool::work(int number, int cpu) {
    pin(cpu);
    long seen = 0;
    for (;;) {
        const auto called = [this, seen] { return round_ != seen || ending_; };
        if (!spin(called, PATIENCE)) {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, called);
        }
        if (ending_) return;
        seen = round_;
        body_(context_, number);
        running_--;
    }
}

void Pool::barrier() {
    if (size_ == 1) return;
    const long phase = phase_;
    if (arrived_.fetch_add(1) == size_ - 1) {
        arrived_ = 0;
        phase_ = phase + 1;
    } else {
        spin([this, phase] { return phase_ != phase; }, -1);
    }
}

}  // namespace cpm
