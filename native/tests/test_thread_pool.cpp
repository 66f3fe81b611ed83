// The thread pool, also with more threads than cores.
#include "check.h"
#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

using cpm::ThreadPool;

namespace {

struct Counting {
    ThreadPool& pool;
    std::vector<long> counts = {};  // of each thread in this run; not atomic: barriers and the end of a run order the accesses
    long barriers = 0;
    std::atomic<long> wrong{0};
};

void count(void* context, int number) {
    Counting& c = *static_cast<Counting*>(context);
    for (long b = 0; b < c.barriers; b++) {
        c.counts[number]++;
        c.pool.barrier(number);
        long present = 0;
        for (const long n : c.counts) {
            present += n == b + 1;
            c.wrong += n != b + 1 && n != 0;
        }
        c.wrong += present != c.pool.active();
        c.pool.barrier(number);
    }
    c.counts[number]++;
}

void check_run(Counting& c) {
    c.counts.assign(c.pool.size(), 0);
    c.pool.run(count, &c);
    const long present = std::count(c.counts.begin(), c.counts.end(), c.barriers + 1);
    const long absent = std::count(c.counts.begin(), c.counts.end(), 0);
    CHECK(c.counts[0] == c.barriers + 1 && present == c.pool.active() && present + absent == c.pool.size(),
          "%ld of %d took part, %ld did not", present, c.pool.size(), absent);
    CHECK(c.wrong == 0, "%ld counts seen before the barrier", c.wrong.load());
}

// Thread 1 sleeps, as if another program had its core.
struct Preempted {
    ThreadPool& pool;
    bool preempted = true;
    long runs = 0;  // of thread 1
};

void sleep_on_thread_1(void* context, int number) {
    Preempted& p = *static_cast<Preempted*>(context);
    if (number == 1) {
        p.runs++;
        if (p.preempted) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    p.pool.barrier(number);
}

// Wait until `count` is at least `wanted`; false after a minute.
bool reaches(const std::atomic<long>& count, long wanted) {
    const auto since = std::chrono::steady_clock::now();
    while (count < wanted) {
        std::this_thread::yield();
        if (std::chrono::steady_clock::now() - since > std::chrono::seconds(60)) return false;
    }
    return true;
}

struct Phases {
    ThreadPool& pool;
    long phases, pieces, grain;
    bool together;  // no piece ends before all pieces of its phase have started
    std::vector<std::atomic<int>> done;  // [phases, pieces]
    std::vector<std::atomic<long>> started;  // [phases]
    std::atomic<long> wrong{0};
    cpm::PhaseCounters counters = {};

    Phases(ThreadPool& p, long n, long m, long g, bool t) : pool(p), phases(n), pieces(m), grain(g), together(t), done(n * m), started(n) {}
};

void run_phases(void* context, int number) {
    Phases& p = *static_cast<Phases*>(context);
    for (long phase = 0; phase < p.phases; phase++) {
        cpm::parallel_for(p.counters.enter(phase, number), p.pieces, p.grain, [&](long i) {
            p.done[phase * p.pieces + i]++;
            p.started[phase]++;
            if (p.together && p.wrong == 0 && !reaches(p.started[phase], p.pieces)) p.wrong++;
        });
        p.pool.barrier(number);
    }
}

// The counters serve any number of phases: each piece of each phase runs once, and every thread may take one from the start. With a
// single counter, a thread that enters a phase before the counter is reset finds no piece.
void test_phases() {
    for (const int threads : {1, 2, 5}) {
        ThreadPool pool(threads, -1);
        for (const long pieces : {0L, 1L, (long)threads, 7L})
            for (const long grain : {1L, 3L}) {
                where = "phases of " + std::to_string(pieces) + " pieces on " + std::to_string(threads);
                Phases p(pool, 100, pieces, grain, pieces <= threads && grain == 1);
                pool.run_all(run_phases, &p);
                for (const std::atomic<int>& n : p.done) CHECK(n == 1, "done %d times", n.load());
                CHECK(p.wrong == 0, "a thread found no piece");
            }
    }
}

struct Prefetching {
    ThreadPool& pool;
    std::vector<std::atomic<int>> done;
    std::atomic<long> counter{0};
    bool together;  // no piece ends before all have started
    std::atomic<long> started{0}, wrong{0};
};

// Each piece runs once, and a thread's announced next piece is its next one.
void take_pieces(void* context, int) {
    Prefetching& d = *static_cast<Prefetching*>(context);
    const long pieces = (long)d.done.size();
    long announced = pieces;
    cpm::parallel_for_prefetch(d.counter, pieces, d.pool.size(), [&](long piece, long next) {
        d.wrong += announced < pieces && announced != piece;
        announced = next;
        d.started++;
        if (d.together && !reaches(d.started, pieces)) d.wrong++;
        d.done[piece]++;
    });
    d.wrong += announced < pieces;
}

void test_parallel_for_prefetch() {
    for (const int threads : {1, 2, 5}) {
        ThreadPool pool(threads, -1);
        for (const long pieces : {0L, 1L, (long)threads, 2L * threads, 2L * threads + 1, 50L * threads}) {
            where = "parallel_for_prefetch of " + std::to_string(pieces) + " pieces on " + std::to_string(threads);
            Prefetching d{pool, std::vector<std::atomic<int>>(pieces), {0}, pieces <= threads};
            pool.run_all(take_pieces, &d);
            for (const std::atomic<int>& n : d.done) CHECK(n == 1, "done %d times", n.load());
            CHECK(d.wrong == 0, "%ld wrong", d.wrong.load());
        }
    }
}

// A thread that the others wait for is excluded for a while, then included again.
void test_preempted_threads() {
    for (const int threads : {2, 3, 8}) {
        where = "pool of " + std::to_string(threads) + ", one preempted";
        ThreadPool pool(threads, -1);
        Preempted p{pool};
        const auto takes_part = [&] {
            const long before = p.runs;
            pool.run(sleep_on_thread_1, &p);
            return p.runs > before;
        };
        long waits = 0;
        while (takes_part() && waits < 100) waits++;
        CHECK(0 < waits && waits < 100, "waited for it %ld times", waits);
        p.preempted = false;
        const auto began = std::chrono::steady_clock::now();
        bool back = false;
        while (!back && std::chrono::steady_clock::now() - began < std::chrono::seconds(60)) back = takes_part();
        CHECK(back);
        p.preempted = true;
        for (int run = 0; run < 5; run++) {
            const long before = p.runs;
            pool.run_all(sleep_on_thread_1, &p);
            CHECK(p.runs == before + 1 && pool.active() == threads);
        }
        Counting c{pool};
        c.barriers = 50;
        check_run(c);
    }
}

}  // namespace

void test_thread_pool() {
    test_phases();
    test_parallel_for_prefetch();
    test_preempted_threads();
    for (int threads = 1; threads <= 8; threads++) {
        where = "pool of " + std::to_string(threads);
        // pinned too; threads beyond the last CPU stay unpinned
        for (const int first_cpu : {-1, 0}) {
            ThreadPool pool(threads, first_cpu);
            CHECK(pool.size() == threads);
            Counting c{pool};
            for (int run = 0; run < (threads <= 2 ? 1000 : 100); run++) check_run(c);  // slow with more threads than cores
            c.barriers = 50;
            for (int run = 0; run < 5; run++) check_run(c);
            // workers are asleep
            c.barriers = 2;
            for (int run = 0; run < 3; run++) {
                std::this_thread::sleep_for(std::chrono::milliseconds(30));
                check_run(c);
            }
        }
        for (int i = 0; i < 30; i++) ThreadPool unused(threads, -1);
        for (int i = 0; i < 30; i++) {
            ThreadPool used(threads, -1);
            Counting c{used};
            check_run(c);
        }
        // destroyed while the workers are asleep
        auto idle = std::make_unique<ThreadPool>(threads, -1);
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        idle.reset();
    }
    where = "pool of 0";
    ThreadPool smallest(0, -1);
    CHECK(smallest.size() == 1);
}
