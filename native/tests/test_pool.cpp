// The pool of threads, with more of them than the machine has cores too.
#include "check.h"
#include "threads.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

using cpm::Pool;

namespace {

struct Counting {
    Pool& pool;
    std::vector<long> counts;  // of each thread; not atomic: a run's end and barriers order them
    long barriers = 0;
    std::atomic<long> wrong{0};
};

void count(void* context, int number) {
    Counting& c = *static_cast<Counting*>(context);
    for (long b = 0; b < c.barriers; b++) {
        c.counts[number]++;
        c.pool.barrier();
        for (const long n : c.counts) c.wrong += n != c.counts[number];
        c.pool.barrier();
    }
    c.counts[number]++;
}

}  // namespace

void test_pool() {
    for (int threads = 1; threads <= 8; threads++) {
        where = "pool of " + std::to_string(threads);
        // pinned too: beyond the last CPU there is none to be pinned to
        for (const int first_cpu : {-1, 0}) {
            const long runs = threads <= 2 ? 1000 : 100, last = runs + 5 * 51;  // threads without a core wait long
            Pool pool(threads, first_cpu);
            CHECK(pool.size() == threads);
            Counting c{pool, std::vector<long>(threads)};
            for (int run = 0; run < runs; run++) pool.run(count, &c);
            for (const long n : c.counts) CHECK(n == runs, "%ld of %ld runs", n, runs);
            c.barriers = 50;
            for (int run = 0; run < 5; run++) pool.run(count, &c);
            for (const long n : c.counts) CHECK(n == last, "%ld of %ld", n, last);
            CHECK(c.wrong == 0, "%ld counts seen before they were there", c.wrong.load());
            // threads that fell asleep
            c.barriers = 2;
            for (int run = 0; run < 3; run++) {
                std::this_thread::sleep_for(std::chrono::milliseconds(30));
                pool.run(count, &c);
            }
            for (const long n : c.counts) CHECK(n == last + 9, "%ld of %ld", n, last + 9);
        }
        for (int i = 0; i < 30; i++) Pool gone(threads, -1);
        for (int i = 0; i < 30; i++) {
            Pool used(threads, -1);
            Counting c{used, std::vector<long>(threads)};
            used.run(count, &c);
        }
        // asleep when it is to end
        auto idle = std::make_unique<Pool>(threads, -1);
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        idle.reset();
    }
    where = "pool of none";
    Pool least(0, -1);
    CHECK(least.size() == 1);
}
