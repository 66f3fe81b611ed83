// A pool of threads that run one function together and meet at barriers inside it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace cpm {

class Pool {
public:
    // `first_cpu`: threads other than the caller's are pinned to the allowed CPUs after this one; -1: not pinned.
    Pool(int threads, int first_cpu);
    ~Pool();

    int size() const { return size_; }

    // Threads, the caller as number 0, run `body(context, number)`; returns when they have. All of them, but for those whose cores
    // other programs hold: at each barrier the others would wait for these, longer than their work takes. So work must not be dealt
    // out by number; nor may it sleep.
    void run(void (*body)(void* context, int number), void* context);

    // The same with every thread, and whatever it does.
    void run_all(void (*body)(void* context, int number), void* context);

    // Inside `run`: how many take part, and wait for them, as thread `number`.
    int active() const { return active_; }
    void barrier(int number);

    // Inside `run`, as the caller: what may sleep for reasons of its own.
    template <class Call>
    auto outside(Call call) {
        const Clock::duration before = without_core();
        const auto answer = call();
        off_ -= without_core() - before;
        return answer;
    }

private:
    using Clock = std::chrono::steady_clock;

    static Clock::duration without_core();  // of this thread, since some moment

    struct Worker {
        std::thread thread;
        std::condition_variable wake;
        alignas(64) std::atomic<long> calls{0};  // in which it takes part
        Clock::duration waited{0}, off{0};  // in `run` since the caller judged: at barriers, and without a core
        // the caller's: whether it takes part, else until when it does not, and for how long if that must be again
        bool in = true;
        Clock::time_point until;
        Clock::duration hold{0};
    };

    void call(void (*body)(void* context, int number), void* context);
    void work(Worker& self, int number, int cpu);
    void end();
    template <class Ready>
    bool spin(Ready ready, long times, Clock::duration* waited = nullptr) const;
    void judge(Clock::time_point now);

    const int size_;
    const long pauses_;  // none where threads share cores: whoever waits makes room
    std::vector<std::unique_ptr<Worker>> workers_;
    void (*body_)(void*, int) = nullptr;
    void* context_ = nullptr;
    int active_ = 1;
    std::atomic<int> running_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<long> phase_{0};
    std::atomic<bool> ending_{false};
    std::mutex mutex_;
    Clock::duration took_{0}, waited_{0}, off_{0};  // the caller's: all its time in `run`, and the same
};

// On each of the threads that share `queue` (0 at first): pieces 0 .. pieces - 1, a piece at a time to whoever is free. `work(piece, next)`
// is told which one its thread takes after it, or `pieces` where that is open: towards the end nobody holds what another could begin.
template <class Work>
void share_ahead(long& queue, long pieces, int threads, Work work) {
    const auto take = [&] { return __atomic_fetch_add(&queue, 1, __ATOMIC_RELAXED); };
    const long plenty = pieces - 2L * threads;
    for (long i = take(); i < pieces;) {
        if (i < plenty) {
            const long next = take();
            work(i, next);
            i = next;
        } else {
            work(i, pieces);
            i = take();
        }
    }
}

}  // namespace cpm
