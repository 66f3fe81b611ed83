#include "thread_pool.h"

#include <time.h>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace cpm {
namespace {

constexpr long PAUSE_LIMIT = 10000;  // pauses of a few dozen cycles each before a waiting thread begins to yield its core
constexpr long SPIN_LIMIT = 20000;   // tries before an idle worker sleeps: about 1 ms, longer than the time between two steps
// Exclusion of workers is checked after each CHECK_INTERVAL spent in `run`. The first time the caller's thread waited for most of
// an interval, workers without a core for a quarter of it are only marked; the second time in a row they are excluded for
// MIN_EXCLUSION, and for twice as long each time it happens again soon after. If instead workers waited for the caller's thread,
// one of them is excluded to free a core.
constexpr std::chrono::milliseconds CHECK_INTERVAL(20), MIN_EXCLUSION(100), MAX_EXCLUSION(3200);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Pin the calling thread to the allowed CPU with this index; do nothing if there is none.
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

// Wait until `ready()`: pause at first, then yield, because another process may hold the core that is waited for. Return false
// after `limit` tries; a negative limit waits without end. Add the time spent yielding to `waited`.
template <class Ready>
bool ThreadPool::spin_until(Ready ready, long limit, Clock::duration* waited) const {
    Clock::time_point since;
    for (long i = 0; !ready(); i++) {
        if (limit >= 0 && i >= limit) return false;
        if (waited && i == pause_limit_) since = Clock::now();
        if (i < pause_limit_) pause();
        else std::this_thread::yield();
    }
    if (since != Clock::time_point()) *waited += Clock::now() - since;
    return true;
}

ThreadPool::Clock::duration ThreadPool::off_core_clock() {
    timespec cpu{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    return Clock::now().time_since_epoch() - std::chrono::seconds(cpu.tv_sec) - std::chrono::nanoseconds(cpu.tv_nsec);
}

ThreadPool::ThreadPool(int threads, int first_cpu)
    : size_(threads < 1 ? 1 : threads), pause_limit_(size_ > (int)std::thread::hardware_concurrency() ? 0 : PAUSE_LIMIT) {
    try {
        for (int n = 1; n < size_; n++) {
            workers_.push_back(std::make_unique<Worker>());
            Worker& worker = *workers_.back();
            worker.thread = std::thread([this, &worker, n, first_cpu] { worker_loop(worker, n, first_cpu < 0 ? -1 : first_cpu + n); });
        }
    } catch (...) {  // the system has no more threads, or no memory
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    for (auto& w : workers_) w->wake.notify_one();
    for (auto& w : workers_)
        if (w->thread.joinable()) w->thread.join();
}

void ThreadPool::run(void (*body)(void*, int), void* context) {
    if (size_ == 1) return body(context, 0);
    const Clock::time_point start = Clock::now();
    const Clock::duration before = off_core_clock();
    for (auto& w : workers_) w->included = w->included || start >= w->excluded_until;
    dispatch(body, context);
    if (active_ == 1) return;
    const Clock::time_point now = Clock::now();
    elapsed_ += now - start;
    off_core_ += off_core_clock() - before;
    if (elapsed_ >= CHECK_INTERVAL) exclude_preempted(now);
}

void ThreadPool::run_all(void (*body)(void*, int), void* context) {
    for (auto& w : workers_) w->included = true;
    dispatch(body, context);
    reset_measurements();
}

void ThreadPool::dispatch(void (*body)(void*, int), void* context) {
    active_ = 1 + std::count_if(workers_.begin(), workers_.end(), [](const auto& w) { return w->included; });
    if (active_ > 1) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            body_ = body;
            context_ = context;
            running_ = active_ - 1;
            for (auto& w : workers_)
                if (w->included) w->calls++;
        }
        for (auto& w : workers_)
            if (w->included) w->wake.notify_one();
    }
    body(context, 0);
    spin_until([this] { return running_ == 0; }, -1, &waited_);
}

void ThreadPool::exclude_preempted(Clock::time_point now) {
    bool found = false;
    const auto exclude = [&](Worker& w) {
        found = true;
        w.included = w.next_exclusion == Clock::duration(0);  // the first time it is only marked
        w.excluded_until = now + w.next_exclusion;
        w.next_exclusion = std::clamp<Clock::duration>(2 * w.next_exclusion, MIN_EXCLUSION, MAX_EXCLUSION);
    };
    for (auto& w : workers_)
        if (w->included && 4 * w->off_core > elapsed_ && 2 * waited_ > elapsed_) exclude(*w);
    if (!found && 4 * off_core_ > elapsed_) {
        const auto waiting =
            std::find_if(workers_.rbegin(), workers_.rend(), [&](const auto& w) { return 2 * w->waited > elapsed_; });
        if (waiting != workers_.rend()) exclude(**waiting);
    }
    for (auto& w : workers_)
        if (!found && w->included) w->next_exclusion = std::max(w->next_exclusion - elapsed_, Clock::duration(0));
    reset_measurements();
}

void ThreadPool::reset_measurements() {
    for (auto& w : workers_) w->off_core = w->waited = Clock::duration(0);
    elapsed_ = waited_ = off_core_ = Clock::duration(0);
}

void ThreadPool::worker_loop(Worker& self, int number, int cpu) {
    pin(cpu);
    long seen = 0;
    for (;;) {
        const auto called = [&] { return self.calls != seen || stopping_; };
        if (!spin_until(called, SPIN_LIMIT)) {
            std::unique_lock<std::mutex> lock(mutex_);
            self.wake.wait(lock, called);
        }
        if (stopping_) return;
        seen++;
        const Clock::duration before = off_core_clock();
        body_(context_, number);
        self.off_core += off_core_clock() - before;
        running_--;
    }
}

void ThreadPool::barrier(int number) {
    if (active_ == 1) return;
    const long generation = generation_;
    if (arrived_.fetch_add(1) == active_ - 1) {
        arrived_ = 0;
        generation_ = generation + 1;
    } else {
        spin_until([this, generation] { return generation_ != generation; }, -1, number == 0 ? &waited_ : &workers_[number - 1]->waited);
    }
}

}  // namespace cpm
