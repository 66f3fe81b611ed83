#include "threads.h"

#include <algorithm>
#include <time.h>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace cpm {
namespace {

constexpr long PAUSES = 10000;       // of a few dozen cycles each, before a waiting thread begins to yield its core
constexpr long PATIENCE = 20000;     // tries before an idle thread sleeps: about a millisecond, longer than between two steps
// The caller looks at so much of its time at once. Where it waited for most of that, twice in a row, threads that had no core for much
// of it are left out for SHORTEST; where it does so again soon after they are back, for twice as long each time. Where others waited
// for the caller, it is one of them that makes room.
constexpr std::chrono::milliseconds LOOK(20), SHORTEST(100), LONGEST(3200);

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
// Adds to `waited` the time after the first pauses.
template <class Ready>
bool Pool::spin(Ready ready, long times, Clock::duration* waited) const {
    Clock::time_point since;
    for (long i = 0; !ready(); i++) {
        if (times >= 0 && i >= times) return false;
        if (waited && i == pauses_) since = Clock::now();
        if (i < pauses_) pause();
        else std::this_thread::yield();
    }
    if (since != Clock::time_point()) *waited += Clock::now() - since;
    return true;
}

Pool::Clock::duration Pool::without_core() {
    timespec cpu{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    return Clock::now().time_since_epoch() - std::chrono::seconds(cpu.tv_sec) - std::chrono::nanoseconds(cpu.tv_nsec);
}

Pool::Pool(int threads, int first_cpu)
    : size_(threads < 1 ? 1 : threads), pauses_(size_ > (int)std::thread::hardware_concurrency() ? 0 : PAUSES) {
    try {
        for (int n = 1; n < size_; n++) {
            workers_.push_back(std::make_unique<Worker>());
            Worker& worker = *workers_.back();
            worker.thread = std::thread([this, &worker, n, first_cpu] { work(worker, n, first_cpu < 0 ? -1 : first_cpu + n); });
        }
    } catch (...) {  // no more threads to be had
        end();
        throw;
    }
}

Pool::~Pool() { end(); }

void Pool::end() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    for (auto& w : workers_) w->wake.notify_one();
    for (auto& w : workers_)
        if (w->thread.joinable()) w->thread.join();
}

void Pool::run(void (*body)(void*, int), void* context) {
    if (size_ == 1) return body(context, 0);
    const Clock::time_point began = Clock::now();
    const Clock::duration before = without_core();
    for (auto& w : workers_) w->in = w->in || began >= w->until;
    call(body, context);
    if (active_ == 1) return;
    const Clock::time_point now = Clock::now();
    took_ += now - began;
    off_ += without_core() - before;
    if (took_ >= LOOK) judge(now);
}

void Pool::run_all(void (*body)(void*, int), void* context) {
    for (auto& w : workers_) w->in = true;
    call(body, context);
    for (auto& w : workers_) w->off = w->waited = Clock::duration(0);
    took_ = waited_ = off_ = Clock::duration(0);
}

void Pool::call(void (*body)(void*, int), void* context) {
    active_ = 1 + std::count_if(workers_.begin(), workers_.end(), [](const auto& w) { return w->in; });
    if (active_ > 1) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            body_ = body;
            context_ = context;
            running_ = active_ - 1;
            for (auto& w : workers_)
                if (w->in) w->calls++;
        }
        for (auto& w : workers_)
            if (w->in) w->wake.notify_one();
    }
    body(context, 0);
    spin([this] { return running_ == 0; }, -1, &waited_);
}

void Pool::judge(Clock::time_point now) {
    bool calm = true;
    const auto leave_out = [&](Worker& w) {
        calm = false;
        w.in = w.hold == Clock::duration(0);
        w.until = now + w.hold;
        w.hold = std::clamp<Clock::duration>(2 * w.hold, SHORTEST, LONGEST);
    };
    for (auto& w : workers_)
        if (w->in && 4 * w->off > took_ && 2 * waited_ > took_) leave_out(*w);
    if (calm && 4 * off_ > took_) {
        const auto found = std::find_if(workers_.rbegin(), workers_.rend(), [&](const auto& w) { return 2 * w->waited > took_; });
        if (found != workers_.rend()) leave_out(**found);
    }
    for (auto& w : workers_) {
        if (calm && w->in) w->hold = std::max(w->hold - took_, Clock::duration(0));
        w->off = w->waited = Clock::duration(0);
    }
    took_ = waited_ = off_ = Clock::duration(0);
}

void Pool::work(Worker& self, int number, int cpu) {
    pin(cpu);
    long seen = 0;
    for (;;) {
        const auto called = [&] { return self.calls != seen || ending_; };
        if (!spin(called, PATIENCE)) {
            std::unique_lock<std::mutex> lock(mutex_);
            self.wake.wait(lock, called);
        }
        if (ending_) return;
        seen++;
        const Clock::duration before = without_core();
        body_(context_, number);
        self.off += without_core() - before;
        running_--;
    }
}

void Pool::barrier(int number) {
    if (active_ == 1) return;
    const long phase = phase_;
    if (arrived_.fetch_add(1) == active_ - 1) {
        arrived_ = 0;
        phase_ = phase + 1;
    } else {
        spin([this, phase] { return phase_ != phase; }, -1, number == 0 ? &waited_ : &workers_[number - 1]->waited);
    }
}

}  // namespace cpm
