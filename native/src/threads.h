// A pool of threads that run one function together and meet at barriers inside it.
#pragma once

#include <atomic>
#include <condition_variable>
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

    // Every thread, the caller as number 0, runs `body(context, number)`; returns when all have.
    void run(void (*body)(void* context, int number), void* context);

    // Inside `run`: wait for all threads.
    void barrier();

private:
    void work(int number, int cpu);
    template <class Ready>
    bool spin(Ready ready, long times) const;

    const int size_;
    const long pauses_;  // none where threads share cores: whoever waits makes room
    std::vector<std::thread> threads_;
    void (*body_)(void*, int) = nullptr;
    void* context_ = nullptr;
    std::atomic<long> round_{0};  // counts calls of run
    std::atomic<int> running_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<long> phase_{0};
    std::atomic<bool> ending_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
};

}  // namespace cpm
