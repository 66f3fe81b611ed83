// A pool of threads that run one function together and synchronize at barriers inside it.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace cpm {

class ThreadPool {
public:
    // `threads`: the caller's thread and the workers together; below 1 counts as 1.
    // `first_cpu`: pin worker n to the n-th allowed CPU after this one; -1: do not pin. The caller's thread is never pinned.
    // Throws std::system_error if a thread cannot be started.
    ThreadPool(int threads, int first_cpu);
    ~ThreadPool();

    int size() const { return size_; }

    // Run `body(context, number)` on the threads, the caller as number 0; return when all have finished. Workers whose cores are
    // taken by other programs are excluded for a while, because the other threads would wait for them at each barrier longer
    // than their work takes. So `body` must not assign work by thread number, and must not sleep.
    void run(void (*body)(void* context, int number), void* context);

    // Run `body` on every thread, without exclusion; it may sleep.
    void run_all(void (*body)(void* context, int number), void* context);

    // Inside `run`: the number of threads that take part.
    int active() const { return active_; }
    // Inside `run`, on thread `number`: wait until all active threads have called this.
    void barrier(int number);

    // Inside `run`, on the caller's thread: make a call that may sleep. Its sleep does not count as a core taken away.
    template <class Call>
    auto run_blocking(Call call) {
        const Clock::duration before = off_core_clock();
        const auto result = call();
        off_core_ -= off_core_clock() - before;
        return result;
    }

private:
    using Clock = std::chrono::steady_clock;

    static Clock::duration off_core_clock();  // time the calling thread had no core, from an arbitrary origin

    struct Worker {
        std::thread thread;
        std::condition_variable wake;
        alignas(64) std::atomic<long> calls{0};  // calls it takes part in
        Clock::duration waited{0}, off_core{0};  // since the last check: time at barriers, and time without a core inside `run`
        // Written by the caller's thread only:
        bool included = true;
        Clock::time_point excluded_until;
        Clock::duration next_exclusion{0};
    };

    void dispatch(void (*body)(void* context, int number), void* context);
    void worker_loop(Worker& self, int number, int cpu);
    void stop();
    template <class Ready>
    bool spin_until(Ready ready, long limit, Clock::duration* waited = nullptr) const;
    void exclude_preempted(Clock::time_point now);
    void reset_measurements();

    const int size_;
    const long pause_limit_;  // 0 with more threads than cores: a waiting thread yields at once
    std::vector<std::unique_ptr<Worker>> workers_;
    void (*body_)(void*, int) = nullptr;
    void* context_ = nullptr;
    int active_ = 1;
    std::atomic<int> running_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<long> generation_{0};  // barriers passed
    std::atomic<bool> stopping_{false};
    std::mutex mutex_;
    Clock::duration elapsed_{0}, waited_{0}, off_core_{0};  // of the caller's thread inside `run`, since the last check
};

// The counters from which threads take the pieces of a phase; a barrier ends each phase. Two counters serve any number of phases
// by turns: while a phase runs, no thread uses the counter of the phase before, so thread 0 resets it for the next phase.
class PhaseCounters {
public:
    // The counter of phase `phase` (0, 1, 2 ...), 0 at its start. Each active thread calls this once in each phase.
    std::atomic<long>& enter(long phase, int number) {
        if (number == 0) counters_[(phase + 1) % COUNT].next.store(0, std::memory_order_relaxed);
        return counters_[phase % COUNT].next;
    }

private:
    static constexpr long COUNT = 2;
    struct alignas(64) Counter {
        std::atomic<long> next{0};
    };
    Counter counters_[COUNT];
};

// On each thread that shares `counter` (0 at first): run `work(i)` for the pieces 0 .. pieces - 1, `grain` at a time, taken by
// whichever thread is free.
template <class Work>
void parallel_for(std::atomic<long>& counter, long pieces, long grain, Work work) {
    for (;;) {
        const long from = counter.fetch_add(grain, std::memory_order_relaxed);
        if (from >= pieces) return;
        for (long i = from; i < std::min(from + grain, pieces); i++) work(i);
    }
}

// The same, a piece at a time, for work that prefetches: `work(piece, next)` gets the piece that its thread takes after it, or
// `pieces` if that is not decided. Towards the end it is never decided, so that no thread reserves a piece while another is idle.
template <class Work>
void parallel_for_prefetch(std::atomic<long>& counter, long pieces, int threads, Work work) {
    const auto take = [&] { return counter.fetch_add(1, std::memory_order_relaxed); };
    const long reservable = pieces - 2L * threads;
    for (long i = take(); i < pieces;) {
        if (i < reservable) {
            const long next = take();
            work(i, next);
            i = next;
        } else {
            work(i, pieces);
            i = take();
        }
    }
}

// Run `work(piece)` for the pieces 0 .. pieces - 1 on the threads of a pool. It must not throw.
template <class Work>
void share(ThreadPool& pool, long pieces, Work work) {
    struct Call {
        std::atomic<long> next{0};
        long pieces;
        Work& work;
    } call{{}, pieces, work};
    const auto body = [](void* context, int) {
        Call& c = *static_cast<Call*>(context);
        parallel_for(c.next, c.pieces, 1, c.work);
    };
    if (pieces == 1) body(&call, 0);  // without waking another thread
    else pool.run(body, &call);
}

}  // namespace cpm
